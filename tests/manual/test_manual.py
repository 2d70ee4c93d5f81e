"""What is written from the commands: it is current, and the programs that read it take it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from manual.commands import everything, program
from manual.docstrings import of_class
from manual.pages import pages
from manual.settings import settings_of, tables, written
from manual.share import write_manual
from shoal.cli.exits import ExitCode
from tests.world.programs import require

DAY = 1_769_860_800


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manual")
    write_manual(folder, "1.2.3", DAY)
    return folder / "share"


def test_pages_from_the_code_are_current() -> None:
    for path, text in pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make manual`"


def test_each_setting_has_a_meaning() -> None:
    missing = [written(each.path) for table in tables() for each in settings_of(table) if not each.meaning]
    assert not missing, "a docstring below the field"
    assert all(of_class(table.kind) for table in tables())


def test_each_command_has_a_man_page_that_is_shown_without_a_warning(share: Path) -> None:
    """By what man itself formats pages with: it starts once for all of them."""
    require("groff")
    pages = {f"{each.path.replace(' ', '-')}.1": each for each in everything(program())}
    assert {path.name for path in (share / "man/man1").iterdir()} == pages.keys()
    files = [str(share / "man/man1" / name) for name in pages]
    command = ["groff", "-k", "-ww", "-man", "-Tutf8", "-P-cbou", "-rLL=200n", "-rcR=1", *files]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    shown = done.stdout.split("\nNAME\n")[1:]
    for each, text in zip(pages.values(), (" ".join(page.split()) for page in shown), strict=True):
        assert f"{each.path.replace(' ', '-')} - {each.summary.rstrip('.')} SYNOPSIS {each.usage}" in text
        assert all(" ".join(example.split()) in text for example in each.command.examples)
        assert all(f"{code.value} {code.meaning}" in text for code in ExitCode)
        assert all(" ".join(flag.split()) in text for options in each.options.values() for flag, _ in options)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("shoal pu", {"pull"}),
        ("shoal config c", {"ca", "containerd", "crio"}),
        ("shoal peer --peer-l", {"--peer-listen"}),
        ("shoal completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes_commands_and_flags(share: Path, typed: str, completed: set[str]) -> None:
    require("bash")
    script = (
        f"source {share}/bash-completion/completions/shoal; IFS=' '\n"
        f"COMP_WORDS=({typed}); [[ '{typed}' == *' ' ]] && COMP_WORDS+=('')\n"
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _shoal_completion shoal; echo ${COMPREPLY[@]}"
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", "--norc", "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert set(done.stdout.split()) == completed


def test_fish_does_not_cut_descriptions_at_commas(share: Path) -> None:
    script = (share / "fish/vendor_completions.d/shoal.fish").read_text()
    assert 'string split --max 1 "," $completion' in script


def test_man_shows_a_page(share: Path) -> None:
    require("man")
    command = ["man", "--warnings", "--local-file", str(share / "man/man1/shoal-config-ca.1")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (done.stderr, "shoal config ca --json" in done.stdout) == ("", True)


def test_each_shell_has_a_script(share: Path) -> None:
    scripts = [
        share / "bash-completion/completions/shoal",
        share / "zsh/site-functions/_shoal",
        share / "fish/vendor_completions.d/shoal.fish",
    ]
    assert all("_SHOAL_COMPLETE" in script.read_text() for script in scripts)
    assert scripts[1].read_text().startswith("#compdef shoal")
