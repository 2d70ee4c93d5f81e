"""The commands in the documents, typed as they stand there; `tests.acceptance.documents` says which ones these are."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.origin import PROGRAM
from tests.acceptance.documents import ROOT, Block, blocks, commands, documents
from tests.acceptance.site import Site
from tests.world.programs import require, require_root

_CLIENTS = ROOT / "docs/clients.md"
_IMAGES = ("library/alpine:3.20", "prometheus/prometheus:v3.0.0")
_CLONE = "/root/shoal"

NODE = """
[peer.labels]
rack = "b4"

[proxy.upstreams."quay.io"]
url = "https://registry-1.docker.io"
"""
"""Of the machine with a supernode and a node, which listen where they do by default."""

ALL_IN_ONE = """
import contextlib, io, json, sys
from shoal.cli.commands import main
for line in sys.stdin:
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        code = main(json.loads(line), standalone_mode=False)
    print(json.dumps([code or 0, told.getvalue()]))
"""
"""The program, which a command line is a line of its input: to start it for each takes a minute."""


def with_word(word: str) -> dict[Path, list[Block]]:
    """The documents that have blocks with this first word, and the blocks."""
    found = {path: [each for each in blocks(path) if each.words[:1] == (word,)] for path in documents()}
    return {path: each for path, each in found.items() if each}


@pytest.fixture(scope="module")
def site(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    require_root()
    require("git", "openssl", PROGRAM)
    with ExitStack() as stack:
        site = Site(tmp_path_factory.mktemp("site"), packages, stack, ["newcomer", "operator"], _IMAGES)
        for machine in site.machines.values():
            machine.run(f"git clone --quiet https://github.com/shoal/shoal {_CLONE}")
        yield site


@pytest.fixture(scope="module")
def operator(site: Site) -> Site:
    """The same, with a supernode and a node on the second machine."""
    machine = site.machines["operator"]
    machine.run("python3 -m venv /opt/shoal && /opt/shoal/bin/pip install --quiet ./shoal")
    machine.run("ln -s /opt/shoal/bin/shoal /usr/local/bin/shoal")
    machine.write("/etc/shoal/shoal.toml", NODE)
    machine.write("/root/base-images.txt", "alpine:3.20  # a remark\n")
    daemon = Block(ROOT, "sh", ("node", "daemon", "5080"), "shoal up --config /etc/shoal/shoal.toml")
    site.follow(daemon, ["operator"])
    return site


@pytest.mark.timeout(300)
@pytest.mark.parametrize("document", with_word("clone"), ids=lambda path: path.stem)
def test_what_is_typed_in_a_clone_works(document: Path, site: Site) -> None:
    for block in with_word("clone")[document]:
        site.follow(block, ["newcomer"], _CLONE)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("document", with_word("node"), ids=lambda path: path.stem)
def test_what_is_typed_on_a_node_works(document: Path, operator: Site) -> None:
    for block in with_word("node")[document]:
        operator.follow(block, ["operator"])


def arguments(words: list[str], root: Path) -> list[str]:
    """Of `shoal config` as it is typed, for the files below `root`."""
    words = words[1:] if words[0] == "sudo" else words
    assert words[:2] == ["shoal", "config"], words
    if "--root" in words:
        words = words[: words.index("--root")]
    return [*words[1:], "--root", str(root)]


def run(lines: list[tuple[list[str], Path]]) -> list[tuple[int, str]]:
    """Exit code and standard output of each line."""
    given = "".join(f"{json.dumps(arguments(words, root))}\n" for words, root in lines)
    command = [sys.executable, "-c", ALL_IN_ONE]
    done = subprocess.run(command, check=True, input=given, capture_output=True, text=True, timeout=100)
    return [(code, text) for code, text in map(json.loads, done.stdout.splitlines())]


@pytest.mark.parametrize("document", with_word("files"), ids=lambda path: path.stem)
def test_files_of_runtimes_become_what_is_shown(document: Path, tmp_path: Path) -> None:
    machine, empty = tmp_path / "machine", tmp_path / "empty"
    machine.mkdir()
    empty.mkdir()
    lines: list[tuple[list[str], Path]] = []
    shown: dict[int, str] = {}
    for block in with_word("files")[document]:
        if block.language == "console":
            command, _, shown[len(lines)] = block.text.removeprefix("$ ").partition("\n")
            lines.append((shlex.split(command), empty))
        else:
            lines += ((words, machine) for words in commands(block.text))
    for place, ((words, _), (code, told)) in enumerate(zip(lines, run(lines), strict=True)):
        assert code == 0, f"{words}: {told}"
        assert told == shown.get(place, told), words


def test_each_runtime_has_a_section_that_says_how_to_take_it_back() -> None:
    page = _CLIENTS.read_text()
    for name in ("docker", "containerd", "podman", "crio", "k3s", "buildkit"):
        assert f"sudo shoal config {name} --write\n" in page
        assert f"sudo shoal config {name} --undo\n" in page
