"""The program run in the test's own process, for what ends by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.tree import Ended, run

Shoal = Callable[..., Ended]
"""Runs the program with these arguments, and with keywords as environment variables."""


@pytest.fixture(autouse=True)
def _own_logs(logs_as_before: None) -> None:
    """Commands set the process's logs up."""


@pytest.fixture
def shoal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shoal:
    def called(*arguments: str | Path, **environment: str) -> Ended:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            return run(capsys, [*map(str, arguments)])

    return called
