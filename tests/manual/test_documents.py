"""The documents lead to each other, and what they show is what programs read."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from shoal.cli import main
from shoal.cli.configuration import Configuration
from shoal.settings import load
from tests.acceptance.documents import (
    ELSEWHERE,
    ROOT,
    TYPED,
    anchors,
    blocks,
    commands,
    documents,
    links,
    prose,
    spans,
    typed,
)

_INDENTED = re.compile(r"(?:^|\n)(?!- |\d+\. | )[^\n]*\n\n {4}(\S[^\n]*)")
_WORDS = {"IMAGE": "alpine", "RUNTIME": "docker", "RATE": "200MB/s", "COMMAND": "pull", "/host": "/"}
"""What stands for something in the text."""


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = document if not name else (document.parent / name).resolve()
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_each_page_is_listed() -> None:
    listed = {(ROOT / "docs" / link).resolve() for link in links(ROOT / "docs/README.md")}
    assert set((ROOT / "docs").rglob("*.md")) - listed == {ROOT / "docs/README.md"}


def test_what_is_typed_stands_in_a_block_that_says_where() -> None:
    for document in documents():
        found = _INDENTED.search(prose(document))
        assert found is None, f"{document}: a block is fenced: {found[1] if found else ''}"
        assert all(block.language for block in blocks(document)), f"{document}: a block names its language"
        for block in typed(document):
            where, why = (*block.words, "", "")[:2]
            assert where in TYPED or (where == "elsewhere" and why in ELSEWHERE), f"{document}: {block.text}"


def test_commands_of_shoal_are_read_by_the_command_line() -> None:
    lines = {
        (document, line)
        for document in documents()
        for line in itertools.chain(
            (filled(words) for block in typed(document) for words in commands(block.text)), inline_commands(document)
        )
    }
    read = [(document, arguments) for document, line in lines if (arguments := of_shoal(line))]
    assert len(read) > 100
    for document, arguments in read:
        try:
            parse(arguments)
        except (click.MissingParameter, click.exceptions.NoArgsIsHelpError):  # the text speaks of the command
            assert len(arguments) <= 2, f"{document}: shoal {' '.join(arguments)}"
        except click.ClickException as error:
            pytest.fail(f"{document}: shoal {' '.join(arguments)}: {error.format_message()}")


def test_examples_of_configurations_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "shoal.toml"
    found = [block for document in documents() for block in blocks(document) if block.language == "toml"]
    assert len(found) > 5
    for block in found:
        file.write_text(block.text)
        load(Configuration, file, {})


def test_examples_of_yaml_and_json_can_be_read() -> None:
    for document in documents():
        for block in blocks(document):
            if block.language == "yaml":
                assert list(yaml.safe_load_all(block.text))
            elif block.language == "json":
                json.loads(block.text)


def inline_commands(document: Path) -> Iterator[tuple[str, ...]]:
    """What the text says that can be typed."""
    for span in spans(document):
        words = span.split()
        if words[0] == "shoal" and not re.search(r"\||\.\.\.|[<*]", span):
            yield filled(words)


def filled(words: list[str]) -> tuple[str, ...]:
    """A command line with something in place of what stands for it."""
    return tuple(_WORDS.get(word, word) for word in words)


def of_shoal(line: tuple[str, ...]) -> list[str]:
    """The arguments of `shoal` in a line, wherever it is called there; empty where it is not."""
    for place, (word, following) in enumerate(itertools.pairwise(line)):
        if Path(word).name == "shoal" and following in main.commands:
            ends = [end for end in ("&&", "|", ";", ">") if end in line[place:]]
            return list(line[place + 1 : min(line.index(end, place) for end in ends) if ends else None])
    return []


def parse(arguments: list[str]) -> None:
    """Have the command line read arguments, and run nothing; raises `click.ClickException`."""
    context = main.make_context("shoal", list(arguments))
    while isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        try:
            context = command.make_context(name, rest, parent=context)
        except click.exceptions.Exit:  # --help
            return
