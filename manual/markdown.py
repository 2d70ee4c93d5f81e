"""docs/commands.md: all commands on one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from manual.commands import Described, everything, program
from manual.marks import escaped
from shoal.cli.exits import ExitCode

_INTRODUCTION = """\
# Commands

<!-- Written by `make manual` from the commands themselves. -->

Each command explains itself: `shoal pull --help`. `shoal completion bash` (or `zsh`, `fish`) prints what completes
commands and flags in a shell; man pages (`man shoal-pull`) come with the packages.

With `--json` standard output is one JSON object, whatever happens: the outcome, or `{"error": "...", "exit_code": 3}`.
What is said besides, such as logs and progress, goes to standard error.
"""

_LISTENING = """\
## Addresses of daemons

`--listen` is where those reach a daemon whom it serves: clients (docker, containerd ...) a node's, peers a supernode's.
The other ports have names of their own, which are the same in each command that has them. Values are `HOST:PORT`, such
as `0.0.0.0:5090` or `[fd00::7]:5090`; `HOST` or `:PORT` alone leaves the other as it is configured.

| flag | `shoal supernode` | `shoal peer` | `shoal up` |
| --- | --- | --- | --- |
| `--listen` | peers, 127.0.0.1:5090 | clients, 127.0.0.1:5080 | clients, 127.0.0.1:5080 |
| `--peer-listen` | | other peers, port 5081 | other peers, 127.0.0.1:5081 |
| `--supernode-listen` | | | peers, 127.0.0.1:5090 |
| `--operations` | operators, 127.0.0.1:5091 | operators, 127.0.0.1:5082 | operators of the node, 127.0.0.1:5082 |
| `--supernode-operations` | | | operators of the supernode, 127.0.0.1:5091 |

`shoal peer` lets other peers reach it at all addresses where its supernode is on another machine, else on loopback
only. Commands that ask a node (`shoal status` ...) find it by the same `--operations` and `--store`, or by its
configuration.
"""


def commands_page() -> str:
    """The page as it should be."""
    whole = program()
    lines = [_INTRODUCTION, *_contents(whole), "", *_options("Options of all commands", whole), _LISTENING]
    lines += ["## Exit codes", "", "| code | meaning |", "| --- | --- |"]
    lines += [f"| {code.value} | {code.meaning} |" for code in ExitCode]
    for each in everything(whole):
        if each is not whole:
            lines += ["", *_described(each)]
    return "\n".join(lines) + "\n"


def _contents(whole: Described) -> Iterator[str]:
    yield "| command | |"
    yield "| --- | --- |"
    for heading, commands in whole.sections.items():
        yield f"| **{heading}** | |"
        for described in commands:
            for each in everything(described):
                yield f"| [`{each.path}`](#{each.path.replace(' ', '-')}) | {each.summary} |"


def _described(described: Described) -> Iterator[str]:
    yield f"## {described.path}"
    yield ""
    yield from ["```text", described.usage, "```"]
    for paragraph in [described.summary, *described.paragraphs]:
        yield ""
        yield escaped(paragraph)
    yield ""
    yield from _options("Options", described)
    yield "Examples:"
    yield ""
    yield from ["```sh examples", *described.command.examples, "```"]


def _options(heading: str, described: Described) -> Sequence[str]:
    options = [(name, text) for name, text in described.options.get(heading, []) if name != "--help"]
    if not options:
        return []
    rows = [f"| `{name}` | {escaped(text)} |" for name, text in options]
    return [f"| {heading.lower()} | |", "| --- | --- |", *rows, ""]
