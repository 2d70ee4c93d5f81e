"""What tests with real processes have, in whichever folder they stand."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What was started in a test ends with it, in reverse."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def pool(stack: ExitStack) -> ThreadPoolExecutor:
    """For clients that pull at the same time, and what goes on beside a pull."""
    return stack.enter_context(ThreadPoolExecutor(16))
