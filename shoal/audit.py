"""The audit log: a line of JSON for each request that has ended, and for each change that an operator has made.

Who (an address, and the name in a client's credentials, never what proves it), what, the verdict on it, bytes and
seconds.

Rotated by the operator: where the file of that name is another one than before, or gone, it is opened anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import msgspec
import structlog

log = structlog.get_logger()

FLUSH_SECONDS = 0.5
"""How long a line may wait for others before it is written."""

_MAX_WAITING = 8 << 20
"""Bytes of lines that wait while the disk does not take them; the next ones are lost, and counted."""


Field = str | int | float | None


class Audit:
    """Writes the lines, as an async context manager."""

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._now = now
        self._waiting = bytearray()
        self._lost = 0
        self._failing = False
        self._file = -1
        self._stop = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Raises `OSError` where the file cannot be opened."""
        self._open()
        self._writing = asyncio.create_task(self._write_on(), name="audit log")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        if self._writing is not None:
            await self._writing
        await self.flush()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def record(self, **fields: Field) -> None:
        """One line; fields that are None or empty are left out."""
        said = {name: value for name, value in fields.items() if value is not None and value != ""}
        line = msgspec.json.encode({"time": self._now().isoformat(timespec="milliseconds"), **said}, enc_hook=str)
        if len(self._waiting) + len(line) > _MAX_WAITING:
            self._lost += 1
            return
        self._waiting += line + b"\n"

    async def flush(self) -> None:
        """Write what waits."""
        async with self._flushing:
            content = bytes(self._waiting)
            self._waiting.clear()
            written = await asyncio.to_thread(self._write, content) if content else 0
            self._waiting[:0] = content[written:]

    async def _write_on(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._stop.wait()
            await self.flush()

    def _write(self, content: bytes) -> int:
        """Returns how many bytes the file has taken."""
        written = 0
        try:
            self._reopen()
            while written < len(content):
                written += os.write(self._file, content[written:])
        except OSError as error:
            if not self._failing:
                log.error("audit.failing", file=str(self._path), error=str(error))
            self._failing = True
        else:
            if self._failing or self._lost:
                log.warning("audit.recovered", file=str(self._path), lost=self._lost)
            self._failing, self._lost = False, 0
        return written

    def _reopen(self) -> None:
        try:
            named = self._path.stat()
            own = os.fstat(self._file)
            if (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino):
                return
        except OSError:  # gone, or not open
            pass
        self._open()

    def _open(self) -> None:
        opened = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        if self._file >= 0:
            os.close(self._file)
        self._file = opened
