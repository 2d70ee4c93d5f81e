"""The commands of docs/clients.md, in order, with the machine's files in a folder."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/clients.md"
_BLOCK = re.compile(r"^```(sh|console)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

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


def arguments(line: str, root: Path) -> list[str]:
    """Of a line as it is typed, for the files below `root`."""
    words = shlex.split(line.removeprefix("sudo "))
    assert words[:2] == ["shoal", "config"], line
    if "--root" in words:
        words = words[: words.index("--root")]
    return [*words[1:], "--root", str(root)]


def run(lines: list[tuple[str, Path]]) -> list[tuple[int, str]]:
    """Exit code and standard output of each line."""
    given = "".join(f"{json.dumps(arguments(line, root))}\n" for line, root in lines)
    command = [sys.executable, "-c", ALL_IN_ONE]
    done = subprocess.run(command, check=True, input=given, capture_output=True, text=True, timeout=100)
    return [(code, text) for code, text in map(json.loads, done.stdout.splitlines())]


def test_what_is_typed_works_and_what_is_shown_is_what_is_printed(tmp_path: Path) -> None:
    machine, empty = tmp_path / "machine", tmp_path / "empty"
    machine.mkdir()
    empty.mkdir()
    lines: list[tuple[str, Path]] = []
    shown: dict[int, str] = {}
    for language, text in _BLOCK.findall(PAGE.read_text()):
        if language == "console":
            command, _, shown[len(lines)] = text.removeprefix("$ ").partition("\n")
            lines.append((command, empty))
        else:
            lines += ((line, machine) for line in text.splitlines())
    assert len(lines) > 20
    assert len(shown) > 4
    for place, ((line, _), (code, told)) in enumerate(zip(lines, run(lines), strict=True)):
        assert code == 0, f"{line}: {told}"
        assert told == shown.get(place, told), line


def test_each_runtime_has_a_section_that_says_how_to_take_it_back() -> None:
    page = PAGE.read_text()
    for name in ("docker", "containerd", "podman", "crio", "k3s", "buildkit"):
        assert f"sudo shoal config {name} --write\n" in page
        assert f"sudo shoal config {name} --undo\n" in page
