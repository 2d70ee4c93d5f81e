"""Flags, and the keys of the configuration that they set; each means the same in each command that has it."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from typing import Any

import pytest

from peer.settings import PeerSettings
from shoal.cli.composition import reached_at
from shoal.cli.configuration import Configuration
from shoal.cli.exits import BadConfiguration, ExitCode
from supernode.settings import SupernodeSettings
from tests.cli.tree import DAEMONS, RUN, Words, call, run

FLAGS: dict[str, dict[str, object]] = {
    "--advertise 10.0.0.7": {"peer.advertise": "10.0.0.7"},
    "--any-upstream": {"proxy.any_upstream": True},
    "--cache-size 200GiB": {"peer.cache.high": "200GiB"},
    "--containerd /var/lib/containerd": {"peer.containerd": "/var/lib/containerd"},
    "--forward-proxy": {"proxy.tunnel.enabled": True},
    "--insecure": {"cluster.insecure": True},
    "--label rack=b4 --label disk=ssd": {"peer.labels.rack": "b4", "peer.labels.disk": "ssd"},
    "--log-format json": {"log.format": "json"},
    "--log-level error": {"log.level": "error"},
    "--name node-7": {"peer.name": "node-7"},
    "--peer-listen [fd00::7]:6081": {"peer.host": "fd00::7", "peer.port": 6081},
    "--secret-file /etc/shoal/secret": {"cluster.secret_file": "/etc/shoal/secret"},
    "--state /srv/state": {"supernode.state": "/srv/state"},
    "--store /srv/store": {"peer.store": "/srv/store"},
    "--supernode http://10.0.0.1:5090": {"peer.supernode": "http://10.0.0.1:5090"},
    "--supernode-listen 10.0.0.1": {"supernode.host": "10.0.0.1", "supernode.port": 5090},
    "--supernode-operations :6091": {"supernode.operations.host": "127.0.0.1", "supernode.operations.port": 6091},
    "--upstream quay.io": {"proxy.upstreams.quay.io": {"url": "https://quay.io"}},
    "--upstream in.example=http://in.example:5000": {"proxy.upstreams.in.example": {"url": "http://in.example:5000"}},
    "--zone b": {"peer.zone": "b"},
}
"""What each flag that is about one key, whichever the command, sets."""

OWN_PORTS: dict[Words, dict[str, str]] = {
    ("supernode",): {"--listen": "supernode", "--operations": "supernode.operations"},
    ("peer",): {"--listen": "proxy", "--operations": "peer.operations"},
    ("up",): {"--listen": "proxy", "--operations": "peer.operations"},
}
"""Where those listen whom a daemon serves, and where its operator asks."""


def having(flag: str) -> list[Words]:
    return [words for words, command in RUN.items() if any(flag in option.opts for option in command.params)]


def looked_up(settings: dict[str, Any], path: str) -> Any:
    """`proxy.upstreams.quay.io`, whose last key holds a dot."""
    if path in settings:
        found = settings[path]
        return {"url": found["url"]} if isinstance(found, dict) else found
    head, _, rest = path.partition(".")
    return looked_up(settings[head], rest)


def printed(capsys: pytest.CaptureFixture[str], words: Words, *flags: str) -> dict[str, Any]:
    ended = run(capsys, [*call(words), *flags, "--print-config"])
    assert (ended.code, ended.err) == (ExitCode.DONE, "")
    return tomllib.loads(ended.out)


@pytest.mark.parametrize("flags", FLAGS)
def test_a_flag_sets_the_same_key_in_each_command(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    commands = having(flags.split()[0])
    assert commands
    for words in commands:
        settings = printed(capsys, words, *flags.split())
        for path, value in FLAGS[flags].items():
            assert looked_up(settings, path) == value, words


@pytest.mark.parametrize("words", OWN_PORTS, ids=" ".join)
def test_each_daemon_is_told_by_the_same_flags_where_it_serves_and_is_operated(
    words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag, table in OWN_PORTS[words].items():
        settings = printed(capsys, words, flag, "[::1]:7000")
        assert (looked_up(settings, f"{table}.host"), looked_up(settings, f"{table}.port")) == ("::1", 7000)


def test_orders_find_the_node_by_the_flags_that_it_was_started_with(capsys: pytest.CaptureFixture[str]) -> None:
    for words in having("--operations"):
        settings = printed(capsys, words, "--operations", ":7082")
        assert 7082 in (settings["peer"]["operations"]["port"], settings["supernode"]["operations"]["port"])


def test_a_flag_is_described_in_one_way() -> None:
    texts = defaultdict(set)
    for words, command in RUN.items():
        for option in command.params:
            if words not in DAEMONS or option.opts[0] not in OWN_PORTS[words]:
                texts[option.opts[0]].add(getattr(option, "help", ""))
    for flag in {each.split()[0] for each in FLAGS} | {"--config", "--json", "--operations", "--print-config"}:
        assert len(texts[flag]) == 1, flag


@pytest.mark.parametrize(
    "flags",
    ["--listen host:port", "--label rack", "--upstream =https://x", "--peer-listen :70000", "--cache-size lots"],
)
def test_a_value_that_is_not_allowed_names_its_flag(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run(capsys, ["peer", *flags.split(), "--print-config"])
    assert (ended.code, ended.out) == (ExitCode.UNUSABLE, "")
    assert flags.split()[0] in ended.err
    assert "allowed" in ended.err


@pytest.mark.parametrize(
    ("host", "peer", "named"),
    [
        ("10.0.0.1", PeerSettings(host="127.0.0.1"), "--peer-listen"),
        ("0.0.0.0", PeerSettings(host="0.0.0.0"), "--advertise"),
    ],
)
def test_up_does_not_let_others_join_a_node_that_they_cannot_reach(host: str, peer: PeerSettings, named: str) -> None:
    with pytest.raises(BadConfiguration, match=named):
        reached_at(Configuration(supernode=SupernodeSettings(host=host), peer=peer))


@pytest.mark.parametrize(
    ("host", "peer", "reached"),
    [
        ("127.0.0.1", PeerSettings(), "127.0.0.1"),
        ("10.0.0.1", PeerSettings(host="10.0.0.1"), "10.0.0.1"),
        ("::", PeerSettings(host="::", advertise="node-1"), "::1"),
    ],
)
def test_ups_own_node_is_seen_by_the_address_at_which_others_reach_it(
    host: str, peer: PeerSettings, reached: str
) -> None:
    assert reached_at(Configuration(supernode=SupernodeSettings(host=host), peer=peer)) == reached
