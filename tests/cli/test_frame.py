"""What holds of each command: examples, quick help, exit codes, and errors as JSON."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from bench.daemons import free_ports
from shoal.cli import main
from shoal.cli.exits import ExitCode
from shoal.cli.frame import Group, summary
from shoal.cli.options import Invocation
from tests.cli.conftest import Shoal
from tests.cli.tree import ALL, DAEMONS, DIAGNOSES, JSON, RUN, Words, call, run

HEAVY = {"aiohttp", "cryptography", "msgspec", "peer", "prometheus_client", "proxy", "rich", "structlog", "uvloop"}
KEEPING = [("gc",), ("images",), ("pin",), ("rm",), ("unpin",), ("verify",)]
"""Commands that work on a store at rest too."""
ORDERS = [words for words in JSON if words not in KEEPING and words[0] not in {"config", "doctor", "pull"}]
"""Commands that a daemon alone can carry out; the others need none."""

HELP_SECONDS = 0.3
HELP_RATIO = 12
"""Where a machine is so slow, or busy, that a bare interpreter takes as long: how many of these help may take."""


def named(words: Words) -> str:
    return " ".join(words)


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty store and without a daemon; the folder of both."""
    (port,) = free_ports(1)
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("SHOAL_PEER__STORE", str(tmp_path / "store"))
    monkeypatch.setenv("SHOAL_PEER__OPERATIONS__PORT", str(port))
    monkeypatch.setenv("SHOAL_SUPERNODE__OPERATIONS__PORT", str(port))
    monkeypatch.setenv("SHOAL_PROXY__TUNNEL__CA", str(tmp_path / "ca"))
    monkeypatch.setenv(
        "SHOAL_PROXY__UPSTREAMS", json.dumps({"docker.io": {"url": f"http://127.0.0.1:{port}", "retries": 0}})
    )
    return tmp_path


def test_help_imports_nothing_that_only_running_needs() -> None:
    program = (
        "import click, json, sys\n"
        "from shoal.cli import main\n"
        "def show(command, context):\n"
        "    assert command.get_help(context)\n"
        "    for name, inner in getattr(command, 'commands', {}).items():\n"
        "        show(inner, click.Context(inner, context, name))\n"
        "show(main, click.Context(main, info_name='shoal'))\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert HEAVY.isdisjoint(json.loads(done.stdout))


@pytest.mark.parametrize("words", [["--help"], ["pull", "--help"]], ids=" ".join)
def test_help_comes_at_once(words: list[str]) -> None:
    best = min(_seconds("-m", "shoal.cli", *words) for _ in range(3))
    assert best < max(HELP_SECONDS, HELP_RATIO * min(_seconds("-c", "pass") for _ in range(3)))


def _seconds(*arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def test_completion_imports_nothing_that_only_running_needs() -> None:
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr))\n"
        "from shoal.cli import main\n"
        "main(prog_name='shoal')"
    )
    asked = {"_SHOAL_COMPLETE": "bash_complete", "COMP_WORDS": "shoal pull --store /x --pl", "COMP_CWORD": "4"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | asked)
    assert done.stdout.split() == ["plain,--platform"]
    assert HEAVY.isdisjoint(done.stderr.split())


def test_the_list_of_commands_has_each_in_whole() -> None:
    shown = main.get_help(click.Context(main, info_name="shoal"))
    for heading, names in main.sections.items():
        section = " ".join(shown.partition(f"\n{heading}:\n")[2].split())
        for name in names:
            assert f"{name} {summary(main.commands[name])}" in section


@pytest.mark.parametrize("words", ALL, ids=named)
def test_each_command_has_examples_that_can_be_run(words: Words) -> None:
    command = ALL[words]
    assert command.examples
    shown = command.get_help(click.Context(command, info_name=named(words)))
    assert "\nExamples:\n" in shown
    for example in command.examples:
        assert f"\n  {example}\n" in f"{shown}\n"
        _parse(example, words)


def test_the_programs_own_examples_can_be_run() -> None:
    for example in main.examples:
        _parse(example, ())


def _parse(example: str, words: Words) -> None:
    """Parse a command line up to where it would be carried out."""
    typed = shlex.split(example, comments=True)
    end = next((place for place, word in enumerate(typed) if word in {">", "|", "&&"}), len(typed))
    typed = typed[typed.index("shoal") + 1 : end]
    assert tuple(typed[: len(words)]) == words
    group: click.Command = main
    context = click.Context(main, info_name="shoal", obj=Invocation())
    while isinstance(group, Group) and typed and typed[0] in group.commands:
        group = group.commands[typed.pop(0)]
    if "--help" not in typed:
        group.make_context("shoal", typed, context)


@pytest.mark.parametrize("words", ALL, ids=named)
def test_an_unknown_option_is_an_unusable_command_line(words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    plain = run(capsys, [*words, "--no-such-option"])
    assert (plain.code, plain.out) == (ExitCode.UNUSABLE, "")
    assert "--no-such-option" in plain.err
    asked = run(capsys, [*words, "--no-such-option", "--json"])
    assert (asked.code, asked.told["exit_code"], asked.err) == (ExitCode.UNUSABLE, ExitCode.UNUSABLE, "")
    assert "--no-such-option" in asked.told["error"]


@pytest.mark.parametrize("words", [words for words in RUN if words not in DIAGNOSES], ids=named)
@pytest.mark.usefixtures("nothing")
def test_an_unusable_configuration_stops_each_command(words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run(capsys, [*call(words), "--config", "/nowhere/shoal.toml"])
    assert (ended.code, ended.out) == (ExitCode.UNUSABLE, "")
    if words in JSON:
        ended = run(capsys, [*call(words), "--config", "/nowhere/shoal.toml", "--json"])
        assert (ended.code, ended.told["exit_code"], ended.err) == (ExitCode.UNUSABLE, ExitCode.UNUSABLE, "")


@pytest.mark.parametrize("words", JSON, ids=named)
@pytest.mark.usefixtures("nothing")
def test_each_outcome_is_one_object(words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a daemon, an image or a network, most fail, and the others have nothing to do."""
    ended = run(capsys, [*call(words), "--json"])
    assert ended.code in {ExitCode.DONE, ExitCode.FAILED, ExitCode.NO_DAEMON}
    assert ("error" in ended.told) <= (ended.code != ExitCode.DONE)


@pytest.mark.parametrize("words", ORDERS, ids=named)
@pytest.mark.usefixtures("nothing")
def test_an_order_that_nobody_hears_has_its_own_exit_code(words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    plain = run(capsys, call(words))
    assert (plain.code, plain.out) == (ExitCode.NO_DAEMON, "")
    assert "no daemon answers at 127.0.0.1:" in plain.err
    asked = run(capsys, [*call(words), "--json"])
    assert (asked.code, asked.told["exit_code"]) == (ExitCode.NO_DAEMON, ExitCode.NO_DAEMON)


@pytest.mark.parametrize("words", KEEPING, ids=named)
def test_without_a_store_a_daemon_may_have_another_one(words: Words, nothing: Path, shoal: Shoal) -> None:
    ended = shoal(*call(words), "--store", nothing / "nowhere", "--json")
    assert (ended.code, ended.told["exit_code"]) == (ExitCode.NO_DAEMON, ExitCode.NO_DAEMON)
    assert f"there is no store at {nothing}/nowhere, and no daemon answers at 127.0.0.1:" in ended.told["error"]


def test_a_fault_of_shoal_itself_is_told_as_json_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(main.commands["status"], "callback", broken)
    with pytest.raises(ZeroDivisionError):
        main(["status", "--json"], prog_name="shoal")
    told = json.loads(capsys.readouterr().out)
    assert (told["exit_code"], told["error"]) == (1, "a fault of Shoal itself: ZeroDivisionError: a fault")


@pytest.mark.parametrize("words", [["completion", "bash"], ["images", "--json"]])
@pytest.mark.usefixtures("nothing")
def test_output_that_nobody_can_take_is_told_in_a_line(words: Words) -> None:
    command = [sys.executable, "-m", "shoal.cli", *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "No space left on device" in done.stderr


def test_names_that_a_terminal_cannot_show_stop_nothing() -> None:
    shown = "from shoal.cli.commands import main\ntry: main(['--version'])\nexcept SystemExit: print('n\\xf6rd')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, env=environment)
    assert done.stdout.endswith("\nn\\xf6rd\n"), done.stderr


def test_all_that_prints_an_outcome_prints_it_as_json_too() -> None:
    assert RUN.keys() - JSON.keys() == DAEMONS | {("completion",)}


def test_the_printed_configuration_is_json_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, ["status", "--print-config", "--json"]).told["peer"]["operations"]["port"] == 5082


def test_a_command_that_is_mistyped_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    ended = run(capsys, ["stats"])
    assert ended.code == ExitCode.UNUSABLE
    assert "'status'" in ended.err


def test_exit_codes_are_explained_in_the_help() -> None:
    shown = main.get_help(click.Context(main, info_name="shoal"))
    for code in ExitCode:
        assert f"  {code.value:<3}  {code.meaning}" in shown.partition("\nExit codes:\n")[2].splitlines()
