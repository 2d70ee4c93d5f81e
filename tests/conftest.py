"""What tests with real processes have, in whichever folder they stand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog

from tests.world.nodes import Supernode
from tests.world.origin import ScriptedOrigin


@pytest.fixture
def logs_as_before() -> Iterator[None]:
    """What a test does to its process's logs ends with it."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    logging.getLogger("aiohttp.server").filters = []
    structlog.reset_defaults()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What was started in a test ends with it, in reverse."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def pool(stack: ExitStack) -> ThreadPoolExecutor:
    """For clients that pull at the same time, and what goes on beside a pull."""
    return stack.enter_context(ThreadPoolExecutor(16))


@pytest.fixture
def supernode(tmp_path: Path, stack: ExitStack) -> Supernode:
    """Not started yet."""
    return Supernode(tmp_path / "supernode")


@pytest.fixture
def origin() -> ScriptedOrigin:
    """Not started yet."""
    return ScriptedOrigin()
