"""What `shoal status` draws."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator
from typing import Any

import click
import pytest
from rich.console import Console, RenderableType

from shoal.cli import live
from shoal.cli.exits import NoDaemon
from shoal.cli.nodeboard import Nodeboard
from shoal.cli.tables import show
from tests.cli.conftest import Shoal

MB = 1_000_000
STATE: dict[str, Any] = {
    "uptime_seconds": 100.0,
    "supernode": "http://lead:5090",
    "supernode_connected": True,
    "supernode_trouble": "",
    "neighbours": 3,
    "store_fault": "",
    "store": {"bytes": 5 * MB, "limit_bytes": 9 * MB, "free_bytes": 7 * MB, "pinned_bytes": 0, "blobs": 2},
    "totals": {
        "origin_in": 0,
        "peers_in": 0,
        "peers_out": 0,
        "served_store": 0,
        "served_peers": 0,
        "served_origin": 0,
        "requests": 0,
    },
    "downloads": [
        {
            "digest": "sha256:0123456789abcdef",
            "size": 100 * MB,
            "repositories": ["docker.io/library/made"],
            "bytes": 10 * MB,
            "seconds": 2.0,
            "readers": 1,
            "suppliers": [{"name": "10.0.0.4:5081", "origin": False, "bytes": 10 * MB}],
        }
    ],
    "pulls": [
        {
            "image": "docker.io/library/made:1",
            "began": "2026-01-02T03:04:05.678+00:00",
            "running": False,
            "seconds": 4.0,
            "bytes": 3 * MB,
            "sources": [
                {"kind": "peer", "name": "a", "bytes": 2 * MB},
                {"kind": "origin", "name": "b", "bytes": MB},
            ],
        }
    ],
    "limits": {"upload": {"bytes_per_second": 20 * MB, "set_by": "order"}},
    "upstreams": [{"registry": "docker.io", "bytes": 0, "limit": 100, "remaining": 7, "quiet_seconds": 12.0}],
}


def drawn(board: Nodeboard, state: dict[str, Any], width: int = 120) -> str:
    screen = Console(file=io.StringIO(), width=width)
    screen.print(board.draw(state, width))
    file = screen.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_node_is_shown_with_its_downloads_and_the_limits_of_its_upstreams() -> None:
    text = drawn(Nodeboard(), STATE)
    for words in (
        "connected to http://lead:5090; neighbours: 3",
        "5 MB in 2 blobs, of 9 MB",
        "limits: upload 20 MB/s",
        "0123456789ab  10%   100 MB  5 MB/s",
        "10.0.0.4:5081 10 MB",
        "7 of 100       12 s",
        "docker.io/library/made:1  03:04:05  4.0 s  3 MB   peer 67%, origin 33%",
    ):
        assert words in text


def test_rates_are_of_the_time_between_two_states() -> None:
    board, later = Nodeboard(), copy.deepcopy(STATE)
    drawn(board, STATE)
    later["uptime_seconds"], later["downloads"][0]["seconds"] = 102.0, 4.0
    later["downloads"][0]["bytes"], later["totals"]["served_peers"] = 50 * MB, 40 * MB
    text = drawn(board, later)
    assert "now: 20 MB/s to clients" in text
    assert "50%   100 MB  20 MB/s" in text


def test_a_node_that_has_restarted_has_no_rates_yet() -> None:
    board = Nodeboard()
    drawn(board, STATE)
    assert "now:" not in drawn(board, {**STATE, "uptime_seconds": 1.0})


def test_an_address_of_ipv6_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    show(["node", "address"], [["[red]east:new:", "[fd00::5]:5081"]])
    assert capsys.readouterr().out.splitlines()[1].split() == ["[red]east:new:", "[fd00::5]:5081"]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
def test_a_narrow_terminal_has_fewer_columns_and_no_cut_ones(width: int) -> None:
    lines = drawn(Nodeboard(), STATE, width).splitlines()
    assert all(len(line.rstrip()) <= width for line in lines)
    assert not [line for line in lines if "…" in line]
    assert any(line.startswith("docker.io") for line in lines)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"supernode": "", "supernode_connected": False}, "none is configured"),
        ({"supernode_connected": False, "supernode_trouble": "refused"}, "is not reached (refused)"),
        ({"store_fault": "no space left"}, "nothing is kept (no space left)"),
    ],
)
def test_what_is_amiss_is_said(change: dict[str, object], words: str) -> None:
    assert words in drawn(Nodeboard(), {**STATE, **change})


def never(_: object, __: int) -> RenderableType:
    raise AssertionError


def answers(*given: object) -> Iterator[Any]:
    yield from given
    raise KeyboardInterrupt


def ask(given: Iterator[Any]) -> Any:
    answer = next(given)
    if isinstance(answer, Exception):
        raise answer
    return answer


def test_a_live_view_is_a_line_of_json_each_second_until_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "_SECONDS", 0.0)
    given = answers({"a": 1}, click.ClickException("gone"), {"a": 2})
    live.follow(lambda: ask(given), never, as_json=True)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"a": 1},
        {"error": "gone"},
        {"a": 2},
    ]


def test_a_live_view_of_nobody_ends_at_once() -> None:
    given = answers(NoDaemon("nobody"))
    with pytest.raises(NoDaemon):
        live.follow(lambda: ask(given), never, as_json=True)


def test_a_cluster_without_a_supernode_here_says_how_it_is_shown(shoal: Shoal) -> None:
    done = shoal("status", "--cluster", "--supernode-operations", "127.0.0.1:1")
    assert done.code == 3
    assert "--supernode-operations" in done.err
