"""The operator's token and its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.operator import OperatorToken, TokenUnusable

GOOD = "t" * 40


@pytest.fixture
def token(tmp_path: Path) -> OperatorToken:
    return OperatorToken(tmp_path / "store" / "operator-token")


def test_a_token_is_made_once_and_for_its_owner_alone(token: OperatorToken) -> None:
    token.make()
    made = token.read()
    assert token.path.stat().st_mode & 0o777 == 0o600
    token.make()
    assert token.read() == made
    assert [path.name for path in token.path.parent.iterdir()] == [token.path.name]


def test_two_nodes_have_different_tokens(tmp_path: Path) -> None:
    tokens = [OperatorToken(tmp_path / name) for name in ("first", "second")]
    for each in tokens:
        each.make()
    assert tokens[0].read() != tokens[1].read()


def test_a_start_that_was_cut_is_mended_by_the_next(token: OperatorToken) -> None:
    token.path.parent.mkdir()
    (token.path.parent / "operator-token.new").write_text("half")
    token.make()
    assert len(token.read()) > 40
    assert [path.name for path in token.path.parent.iterdir()] == [token.path.name]


@pytest.mark.parametrize("content", [b"", b"short", b"with spaces in it and long enough for a token", b"\xff" * 40])
def test_what_is_no_token_is_not_used(token: OperatorToken, content: bytes) -> None:
    token.path.parent.mkdir()
    token.path.write_bytes(content)
    with pytest.raises(TokenUnusable, match="operator-token"):
        token.read()


def test_a_file_that_is_not_there_is_named(token: OperatorToken) -> None:
    with pytest.raises(TokenUnusable, match="No such file"):
        token.read()


@pytest.mark.parametrize(
    ("headers", "right"),
    [
        ([f"Bearer {GOOD}"], True),
        ([f"bearer {GOOD} "], True),
        ([], False),
        ([GOOD], False),
        ([f"Basic {GOOD}"], False),
        (["Bearer "], False),
        ([f"Bearer {GOOD[:-1]}"], False),
        ([f"Bearer {GOOD}x"], False),
        (["Bearer tök\udcff"], False),
        ([f"Bearer {GOOD}", f"Bearer {GOOD}"], False),
    ],
)
def test_which_headers_bear_the_token(token: OperatorToken, headers: list[str], right: bool) -> None:
    token.path.parent.mkdir()
    token.path.write_text(f"{GOOD}\n")
    assert token.is_in(headers) is right


def test_a_token_that_was_replaced_counts_at_once(token: OperatorToken) -> None:
    token.make()
    old = token.read()
    token.path.write_text(GOOD)
    assert token.is_in([f"Bearer {GOOD}"])
    assert not token.is_in([f"Bearer {old}"])
