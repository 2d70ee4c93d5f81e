"""Who may preheat."""

from __future__ import annotations

import base64
from pathlib import Path

from shoal.operator import OperatorToken
from supernode.preheating.tokens import PreheatTokens

CI, OTHER = "c" * 32, "d" * 40


def tokens_of(folder: Path, content: str) -> tuple[PreheatTokens, str]:
    operator = OperatorToken(folder / "operator-token")
    operator.make()
    (folder / "tokens").write_text(content)
    return PreheatTokens(operator, folder / "tokens"), operator.read()


def test_a_token_has_the_name_that_stands_before_it(tmp_path: Path) -> None:
    tokens, operator = tokens_of(tmp_path, f"# who may\nci {CI}\n\n  # a line below\nharbor\t{OTHER}\r\n")
    assert tokens.holder([f"Bearer {CI}"]) == "ci"
    assert tokens.holder([f"bearer  {OTHER} "]) == "harbor"
    assert tokens.holder([f"Bearer {operator}"]) == "operator"
    assert tokens.holder([f"Bearer {CI}x"]) == tokens.holder([]) == tokens.holder(2 * [f"Bearer {CI}"]) == ""


def test_a_token_may_come_as_a_password(tmp_path: Path) -> None:
    tokens, _ = tokens_of(tmp_path, f"harbor {CI}\n")
    said = base64.b64encode(f"anybody:{CI}".encode()).decode()
    assert tokens.holder([f"Basic {said}"]) == "harbor"
    assert tokens.holder(["Basic !"]) == tokens.holder(["Basic /w=="]) == ""


def test_the_file_is_read_again_and_one_that_is_wrong_changes_nothing(tmp_path: Path) -> None:
    tokens, _ = tokens_of(tmp_path, f"ci {CI}\n")
    assert tokens.holder([f"Bearer {CI}"]) == "ci"
    (tmp_path / "tokens").write_text("ci tooshort\n")
    assert tokens.holder([f"Bearer {CI}"]) == "ci"
    (tmp_path / "tokens").write_text(f"other {OTHER}\n")
    assert tokens.holder([f"Bearer {CI}"]) == ""
    assert tokens.holder([f"Bearer {OTHER}"]) == "other"
