"""The commands of docs/clients.md, in order, with the machine's files in a folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/clients.md"
_BLOCK = re.compile(r"^```(sh|console)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shoal(line: str, root: Path) -> subprocess.CompletedProcess[str]:
    """A line as it is typed, for the files below `root`."""
    words = shlex.split(line.removeprefix("sudo "))
    assert words[:2] == ["shoal", "config"], line
    if "--root" in words:
        words = words[: words.index("--root")]
    command = [sys.executable, "-m", "shoal.cli", *words[1:], "--root", str(root)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_what_is_typed_works_and_what_is_shown_is_what_is_printed(tmp_path: Path) -> None:
    blocks = _BLOCK.findall(PAGE.read_text())
    assert len(blocks) > 15
    machine, empty = tmp_path / "machine", tmp_path / "empty"
    machine.mkdir()
    empty.mkdir()
    for language, text in blocks:
        if language == "console":
            command, _, shown = text.removeprefix("$ ").partition("\n")
            assert shoal(command, empty).stdout == shown
            continue
        for line in text.splitlines():
            done = shoal(line, machine)
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"


def test_each_runtime_has_a_section_that_says_how_to_take_it_back() -> None:
    page = PAGE.read_text()
    for name in ("docker", "containerd", "podman", "crio", "k3s", "buildkit"):
        assert f"sudo shoal config {name} --write\n" in page
        assert f"sudo shoal config {name} --undo\n" in page
