"""The command line as people meet it: a process with arguments, files and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.daemons import Daemon, free_ports
from tests.cli.conftest import Shoal
from tests.world.images import random_bytes
from tests.world.nodes import Node, wait_until
from tests.world.origin import REPOSITORY, ScriptedOrigin

MIB = 1 << 20


def process(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program as a process of its own: it may change what belongs to a whole process."""
    command = [sys.executable, "-m", "shoal.cli", *map(str, arguments)]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


BAD_FILES = {
    "a port beyond all ports": ("[peer]\nport = 70000", ["peer.port", "70000", "from 0 to 65535"]),
    "a text for a number": ('[proxy]\nport = "many"', ["proxy.port", '"many"', "a whole number"]),
    "an unknown key": ("[peer]\nprot = 1", ["peer.prot", "did you mean peer.port", "allowed here"]),
    "an unknown table": ("[pear]\nport = 1", ["pear", "supernode, peer, proxy, log"]),
    "a duration that is none": ('[peer]\norigin_wait = "soon"', ["peer.origin_wait", '"soon"', "a duration such as"]),
    "an address that is none": ('[peer]\nsupernode = "ftp://x"', ["supernode", "ftp://x", "http://host[:port]"]),
    "a default that is not there": ('[proxy]\ndefault_upstream = "quay.io"', ["default_upstream", "quay.io", "none"]),
    "a level that is none": ('[log]\nlevel = "loud"', ["log.level", '"loud"', "debug, error, info, warning"]),
    "no TOML": ("port =", ["not TOML"]),
    "a host with brackets": ('[proxy]\nhost = "[::1]"', ["proxy.host", '"[::1]"', "without brackets and port"]),
}


@pytest.mark.parametrize(
    ("name", "command"),
    [*((name, "peer") for name in BAD_FILES), ("an unknown key", "supernode"), ("an unknown key", "up")],
)
def test_a_bad_configuration_stops_the_start_and_says_what_is_allowed(
    shoal: Shoal, tmp_path: Path, name: str, command: str
) -> None:
    text, words = BAD_FILES[name]
    file = tmp_path / "shoal.toml"
    file.write_text(text)
    done = shoal(command, "--config", file)
    assert done.code == 2
    assert "Traceback" not in done.err
    for word in [str(file), *words]:
        assert word in done.err


def test_no_variable_takes_the_place_of_a_table_that_is_none(shoal: Shoal, tmp_path: Path) -> None:
    file = tmp_path / "shoal.toml"
    file.write_text("[[peer]]\nsupernode = 'http://10.0.0.1:5090'\n")
    done = shoal("peer", "--config", file, "--print-config", SHOAL_PEER__STORE=str(tmp_path))
    assert done.code == 2
    assert f"SHOAL_PEER__STORE: peer.store cannot be set: peer is (a list) and not a table ({file})" in done.err


def test_an_error_blames_the_source_of_what_it_names(shoal: Shoal, tmp_path: Path) -> None:
    done = shoal("peer", "--supernode", "10.0.0.1", SHOAL_PEER__STORE=str(tmp_path))
    assert done.code == 2
    assert "Error: flag --supernode: peer: `supernode` '10.0.0.1'" in done.err


def test_a_variable_with_one_underscore_too_few_is_told(shoal: Shoal) -> None:
    done = shoal("peer", "--print-config", SHOAL_PEER_SUPERNODE="http://10.0.0.1:5090")
    assert done.code == 2
    assert "SHOAL_PEER_SUPERNODE sets nothing (did you mean SHOAL_PEER__SUPERNODE?)" in done.err
    assert shoal("peer", "--print-config", SHOAL_PEER_PORT="tcp://10.0.0.1:5081").code == 0  # Kubernetes sets it


def test_a_file_may_begin_with_a_byte_order_mark(shoal: Shoal, tmp_path: Path) -> None:
    file = tmp_path / "shoal.toml"
    file.write_text("[peer]\nport = 7\n", encoding="utf-8-sig")
    assert tomllib.loads(shoal("peer", "--config", file, "--print-config").out)["peer"]["port"] == 7


@pytest.mark.parametrize("flag", ["--listen", "--operations"])
def test_a_host_to_listen_at_that_is_not_known_is_named(tmp_path: Path, flag: str) -> None:
    anywhere = {"SHOAL_PEER__STORE": str(tmp_path), "SHOAL_PEER__PORT": "0", "SHOAL_PEER__OPERATIONS__PORT": "0"}
    done = process("peer", flag, "256.1.1.1:0", SHOAL_CLUSTER__INSECURE="1", **anywhere)
    assert done.returncode == 1
    assert "cannot listen at '256.1.1.1': " in done.stderr


@pytest.mark.parametrize(("command", "key"), [("supernode", "supernode.host"), ("peer", "peer.host")])
def test_a_daemon_that_strangers_could_reach_does_not_start(tmp_path: Path, command: str, key: str) -> None:
    settings = {"SHOAL_PEER__STORE": str(tmp_path), f"SHOAL_{command.upper()}__HOST": "0.0.0.0"}
    done = process(command, **settings)
    assert done.returncode == 2
    assert f"`{key}` '0.0.0.0'" in done.stderr
    assert "cluster.secret_file" in done.stderr
    assert "cluster.insecure" in done.stderr


def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "shoal.toml"
    file.write_text(
        f'[peer]\nstore = "{tmp_path}/store"\nport = 0\noperations.port = 0\n'
        '[proxy]\nport = 0\n[proxy.upstreams."docker.io"]\nusername = "me"\npassword_file = "/nowhere/secret"'
    )
    done = process("peer", "--config", file)
    assert done.returncode == 2
    assert "/nowhere/secret" in done.stderr


def test_rules_that_cannot_be_read_stop_the_start(tmp_path: Path) -> None:
    settings = {"SHOAL_PROXY__ADMISSION__FILE": f"{tmp_path}/rules.toml", "SHOAL_PEER__STORE": f"{tmp_path}/store"}
    done = process("peer", **settings)
    assert done.returncode == 2
    assert f"{tmp_path}/rules.toml: cannot be read" in done.stderr


def test_the_printed_configuration_is_read_back_the_same(shoal: Shoal, tmp_path: Path) -> None:
    first = shoal("up", "--print-config", "--upstream", "quay.io=https://quay.io").out
    file = tmp_path / "shoal.toml"
    file.write_text(first)
    assert shoal("up", "--print-config", "--config", file).out == first
    assert tomllib.loads(first)["proxy"]["port"] == 5080


def test_flags_go_before_the_environment_and_that_before_the_file(shoal: Shoal, tmp_path: Path) -> None:
    file = tmp_path / "shoal.toml"
    file.write_text('[proxy]\nport = 1\n[peer]\nport = 1\nzone = "file"')
    printed = shoal(
        "peer",
        "--config",
        file,
        "--listen",
        "127.0.0.1:3",
        "--print-config",
        SHOAL_PROXY__PORT="2",
        SHOAL_PEER__PORT="2",
    ).out
    settings = tomllib.loads(printed)
    assert (settings["proxy"]["port"], settings["peer"]["port"], settings["peer"]["zone"]) == (3, 2, "file")


def test_secrets_are_not_printed(shoal: Shoal, tmp_path: Path) -> None:
    file = tmp_path / "shoal.toml"
    file.write_text('[proxy.upstreams."docker.io"]\nusername = "me"\npassword = "hunter2"')
    printed = shoal("up", "--config", file, "--print-config").out
    assert "hunter2" not in printed


def test_up_needs_no_configuration_and_mirrors_docker_io(shoal: Shoal) -> None:
    settings = tomllib.loads(shoal("up", "--print-config").out)
    assert (settings["proxy"]["host"], settings["proxy"]["port"]) == ("127.0.0.1", 5080)
    assert settings["proxy"]["default_upstream"] == "docker.io"
    assert settings["proxy"]["upstreams"]["docker.io"]["url"] == "https://registry-1.docker.io"


def test_the_environments_proxies_are_taken_where_the_configuration_names_none(shoal: Shoal, tmp_path: Path) -> None:
    environment = {"HTTPS_PROXY": "proxy.example:3128", "no_proxy": "10.0.0.0/8, .corp.example"}
    settings = tomllib.loads(shoal("up", "--print-config", **environment).out)["proxy"]
    assert (settings["https_proxy"], settings["no_proxy"]) == (
        "http://proxy.example:3128",
        ["10.0.0.0/8", ".corp.example"],
    )
    file = tmp_path / "shoal.toml"
    file.write_text('[proxy]\nhttps_proxy = "http://me:secret@other.example:1"')
    printed = shoal("up", "--print-config", "--config", file, **environment).out
    assert tomllib.loads(printed)["proxy"]["https_proxy"] == "http://***@other.example:1"
    done = shoal("up", "--print-config", HTTP_PROXY="socks5://x:1")
    assert (done.code, "HTTP_PROXY" in done.err) == (2, True)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_ends_cleanly_when_told(tmp_path: Path, how: signal.Signals) -> None:
    with ExitStack() as stack:
        node = Node(tmp_path, {"docker.io": "http://127.0.0.1:1"})
        daemon = node.start(stack)
        daemon.process.send_signal(how)
        assert daemon.process.wait(10) == 0
        assert "daemon.stopped" in node.log


def test_a_stop_lets_running_transfers_end_and_takes_no_new_ones(tmp_path: Path) -> None:
    origin = ScriptedOrigin(rate=4 * MIB)
    content = random_bytes(8 * MIB, "stop")
    digest = origin.put(content)
    with ExitStack() as stack:
        grace = {"SHOAL_PEER__SHUTDOWN_GRACE": "20s", "SHOAL_PROXY__SHUTDOWN_TIMEOUT": "20s"}
        node = Node(tmp_path, {"docker.io": origin.start(stack)}, settings=grace)
        daemon = node.start(stack)
        curl = f"http://127.0.0.1:{node.proxy_port}/v2/{REPOSITORY}/blobs/{digest}"
        client = subprocess.Popen([sys.executable, "-c", _CLIENT, curl], stdout=subprocess.PIPE)
        wait_until(lambda: node.received("origin") > MIB, "the transfer has begun")
        daemon.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "daemon.stopping" in node.log, "it has heard")
        received, _ = client.communicate(timeout=30)
        assert received == content
        assert daemon.process.wait(20) == 0


_CLIENT = """
import sys, urllib.request
with urllib.request.urlopen(sys.argv[1]) as answer:
    sys.stdout.buffer.write(answer.read())
"""


def test_an_address_in_use_is_one_line(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with Daemon([sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], tmp_path / "log") as other:
        other.wait_for(port)
        settings = {"SHOAL_SUPERNODE__OPERATIONS__PORT": "0", "SHOAL_SUPERNODE__STATE": str(tmp_path)}
        done = process("supernode", "--listen", f"127.0.0.1:{port}", **settings)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "in use" in done.stderr


def test_pull_puts_an_image_into_the_store(tmp_path: Path) -> None:
    origin = ScriptedOrigin()
    digest = origin.push(random_bytes(3 * MIB, "a"), random_bytes(MIB, "b"))
    with ExitStack() as stack:
        upstream = f"docker.io={origin.start(stack)}"
        image = f"docker.io/{REPOSITORY}:latest"
        done = process(
            "pull", image, "--upstream", upstream, "--store", tmp_path / "s", "--platform", "linux/amd64", "--json"
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["digest"], told["blobs"]) == (digest, 3)
    stored = {f"sha256:{path.name}" for path in (tmp_path / "s/blobs/sha256").iterdir()}
    assert set(origin.contents) <= stored
    assert json.loads((tmp_path / "s/oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


def test_pull_of_what_is_not_there_fails_in_one_line(tmp_path: Path) -> None:
    origin = ScriptedOrigin()
    with ExitStack() as stack:
        upstream = f"docker.io={origin.start(stack)}"
        done = process("pull", "docker.io/library/made:none", "--upstream", upstream, "--store", tmp_path / "s")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "none" in done.stderr


def test_pull_from_an_unknown_registry_names_those_that_are_known(shoal: Shoal, tmp_path: Path) -> None:
    done = shoal("pull", "unknown.example/x:latest", "--store", tmp_path / "s")
    assert done.code == 1
    assert "docker.io" in done.err


def test_what_forward_proxy_mode_needs_is_imported_only_by_it() -> None:
    """X.509 takes 8 MiB of each node's memory."""
    program = "import sys, shoal.cli.commands; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_pull_that_is_interrupted_has_its_own_exit_code(tmp_path: Path, how: signal.Signals) -> None:
    origin = ScriptedOrigin(rate=MIB / 16)
    origin.push(random_bytes(MIB, "a"))
    with ExitStack() as stack:
        upstream = f"docker.io={origin.start(stack)}"
        command = [sys.executable, "-m", "shoal.cli", "pull", f"docker.io/{REPOSITORY}", "--upstream", upstream]
        store = tmp_path / "store"
        pulling = subprocess.Popen([*command, "--store", str(store), "--json"], stdout=subprocess.PIPE)
        wait_until(lambda: bool(origin.requests), "the origin is asked")
        pulling.send_signal(how)
        told, _ = pulling.communicate(timeout=20)
    assert (pulling.returncode, json.loads(told)["exit_code"]) == (130, 130)
