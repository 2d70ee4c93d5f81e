"""Answers that are long, made row by row: a supernode has nodes to answer meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping

import msgspec
from aiohttp import hdrs, web

_STEP_SECONDS = 0.005
"""For which rows are made without a break."""
_PATIENCE_SECONDS = 15.0
"""How long somebody may take for what waits for him."""


async def give(request: web.Request, response: web.StreamResponse, content: bytes) -> None:
    """Send a part of an answer. Raises `ConnectionError` where it is not taken, and drops the connection then."""
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await response.write(content)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionAbortedError("what was sent was not taken") from None


async def give_rows(
    request: web.Request, head: Mapping[str, object], name: str, rows: Iterable[object]
) -> web.StreamResponse:
    """Answer with a JSON object of `head` and a list `name`, of which each row is made when its turn has come."""
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "application/json; charset=utf-8"})
    await response.prepare(request)
    start = msgspec.json.encode({**head, name: []})[: -len(b"]}")]
    made, began_at = bytearray(start), time.monotonic()
    comma = b""
    try:
        for row in rows:
            made += comma + msgspec.json.encode(row)
            comma = b","
            if time.monotonic() - began_at > _STEP_SECONDS:
                await give(request, response, bytes(made))
                await asyncio.sleep(0)
                made, began_at = bytearray(), time.monotonic()
        await give(request, response, bytes(made) + b"]}")
    except ConnectionError:  # who asked has gone, or does not take it
        return response
    return response
