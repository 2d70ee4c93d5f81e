"""What is fuzzed: a function of bytes, and what is true of the time that it takes."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"

_PUMPED_SIZE = 64 << 10
"""Bytes of an input with a repeated part: as many as the largest header or line that a daemon takes."""
_PUMPED_SECONDS = 0.5
"""Far above what a linear reader needs for them under instrumentation, far below what a quadratic one does."""
_PUMPED_ONE_OF = 64
_ATTEMPTS = 3
"""So often the time has to be over the bound: other load on the machine is not the reader's fault."""


@dataclass(frozen=True, slots=True)
class Target:
    """`run` raises for a fault alone: what the code under test may raise it takes as an answer."""

    name: str
    run: Callable[[bytes], object]
    inputs: int
    """So many in the long form."""
    limit: int = 2048
    """Bytes of an input."""
    pumped: bool = True
    """Whether one of `_PUMPED_ONE_OF` inputs also comes with a part of it repeated to `_PUMPED_SIZE` bytes, and has to
    be read in time that grows with the length alone: what would take quadratic time does not come to an end."""

    def __call__(self, data: bytes) -> None:
        """Try one input; what is done depends on nothing but its bytes."""
        self.run(data)
        lot = zlib.crc32(data)
        if self.pumped and data and lot % _PUMPED_ONE_OF == 0:
            self._check_time(_pump(data, lot // _PUMPED_ONE_OF))

    def kept(self) -> list[Path]:
        """The inputs that are kept in the repository: those that reach new code, and those that once found a fault."""
        return sorted((CORPUS / self.name).iterdir())

    def _check_time(self, data: bytes) -> None:
        seconds = min(self._seconds(data) for _ in range(_ATTEMPTS)) if self._seconds(data) > _PUMPED_SECONDS else 0.0
        assert seconds <= _PUMPED_SECONDS, f"{seconds:.1f} s for {len(data)} bytes that begin with {data[:200]!r}"

    def _seconds(self, data: bytes) -> float:
        began = time.process_time()
        self.run(data)
        return time.process_time() - began


def _pump(data: bytes, lot: int) -> bytes:
    """`data` with a part of it, which `lot` chooses, repeated."""
    start, lot = lot % len(data), lot // len(data)
    end = start + 1 + lot % min(len(data) - start, 8)
    return data[:start] + data[start:end] * ((_PUMPED_SIZE - len(data)) // (end - start)) + data[end:]
