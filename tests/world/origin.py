"""An origin of the tests' own: slow, lying or breaking off as it is told, which no real registry does on demand."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field, fields

from aiohttp import web

from bench.images import CONFIG_TYPE, LAYER_TYPE
from bench.netns import Host
from bench.processes import connect_from
from shoal.descriptor import OCI_MANIFEST
from shoal.digest import Digest
from tests.world.ranges import parse_range
from tests.world.threads import serve

REPOSITORY = "library/made"
_CHUNK = 64 << 10
_TRICKLE_SECONDS = 0.25
"""Between two chunks of an answer that is slow."""
_LASTING = {"rate", "total_rate", "contents", "tags", "requests", "ranges", "sent", "wants_tokens"}


@dataclass
class ScriptedOrigin:
    """Serves the same blobs in every repository, from memory. `rate` limits each response (bytes/s, 0: not), `truncate`
    cuts blobs at that byte, `status` answers requests for blobs in their place."""

    rate: float = 0.0
    total_rate: float = 0.0
    """Limits all responses together."""
    lies: list[tuple[int, bytes]] = field(default_factory=list)
    """What the next answers for blobs are made of: so many bytes of this content, then the connection breaks."""
    stalls: list[int] = field(default_factory=list)
    """The next answers for blobs say nothing more after so many bytes."""
    truncate: int = 0
    status: int = 0
    corrupt: set[str] = field(default_factory=set)
    """Blobs that are served with wrong bytes."""
    silent: dict[str, int] = field(default_factory=dict)
    """Blobs whose responses stop at that byte without an end; at 0 they do not begin."""
    empty_heads: int = 0
    """So many HEADs of blobs are answered with a length of 0."""
    status_of_all: int = 0
    """Answers every request."""
    hangs: bool = False
    """It takes requests and never answers."""
    delay: float = 0.0
    """Seconds before it answers a GET of a blob."""
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Status and headers of the next answers for blobs."""
    ignores_ranges: bool = False
    circles: bool = False
    """It redirects each request for a blob to where that is redirected back."""
    closes_every: int = 0
    """Each answer for a blob ends behind so many bytes, with its connection; 0: none."""
    wants_tokens: bool = False
    """Whether a blob is given only to who shows the token of the moment, which anybody gets; see `expire`."""
    stale_status: int = 401
    """What a token that has expired is answered with."""
    contents: dict[str, bytes] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    """By repository and tag."""
    requests: Counter[str] = field(default_factory=Counter)
    """By method and last part of the path."""
    ranges: int = 0
    """How many of the requests were for a part of a blob."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of bodies by digest."""
    _free_at: float = 0.0
    _generation: int = 0
    """Of tokens."""

    def push(self, *layers: bytes, repository: str = REPOSITORY, sizes: dict[int, int] | None = None) -> str:
        """Make an image of these layers, tagged `latest`; returns its manifest's digest.

        `sizes`: what the manifest says of layers by their place, where that is to be wrong.
        """
        named = sizes or {}
        entries = [
            {"mediaType": LAYER_TYPE, "digest": self.put(layer), "size": named.get(place, len(layer))}
            for place, layer in enumerate(layers)
        ]
        config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}})
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": CONFIG_TYPE, "digest": self.put(config.encode()), "size": len(config)},
            "layers": entries,
        }
        digest = self.put(json.dumps(manifest).encode())
        self.tags[repository, "latest"] = digest
        return digest

    def put(self, content: bytes) -> str:
        digest = Digest.of(content)
        self.contents[digest] = content
        return digest

    def expire(self) -> None:
        """The token of the moment is good no more, nor is what is being sent for it."""
        self._generation += 1

    def behave(self) -> None:
        """Do nothing odd from now on; rates, tokens and content stay. What is stuck stays so."""
        for field_ in fields(self):
            if field_.name not in _LASTING and not field_.name.startswith("_"):
                default = field_.default_factory() if callable(field_.default_factory) else field_.default
                setattr(self, field_.name, default)

    def start(self, stack: ExitStack, host: Host | None = None) -> str:
        """Serve from a thread until `stack` ends, on `host` or on loopback; returns the address."""
        listener = connect_from(host)()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.address if host else "127.0.0.1", 0))
        address, port = listener.getsockname()

        async def start(inner: AsyncExitStack) -> None:
            app = web.Application()
            app.router.add_get("/v2/{repository:.+}/{kind:manifests|blobs}/{reference}", self._answer)
            app.router.add_get("/token", self._token)
            app.router.add_get("/circle/{place:.*}", self._turn_in_circle)
            runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            inner.push_async_callback(runner.cleanup)
            await web.SockSite(runner, listener).start()

        serve(start, stack)
        return f"http://{address}:{port}"

    async def _token(self, _: web.Request) -> web.Response:
        return web.json_response({"token": f"token-{self._generation}", "expires_in": 300})

    async def _turn_in_circle(self, request: web.Request) -> web.Response:
        place = "there" if request.match_info["place"] == "here" else "here"
        return web.Response(status=307, headers={"Location": f"/circle/{place}"})

    def _refusal(self, request: web.Request) -> web.Response | None:
        """In place of a blob."""
        if self.wants_tokens:
            shown = request.headers.get("Authorization", "")
            if shown != f"Bearer token-{self._generation}":
                status = self.stale_status if shown else 401
                realm = f'Bearer realm="http://{request.host}/token",service="scripted"'
                return web.Response(status=status, headers={"WWW-Authenticate": realm} if status == 401 else {})
        if self.circles:
            return web.Response(status=307, headers={"Location": "/circle/here"})
        if self.refusals:
            status, headers = self.refusals.pop(0)
            return web.Response(status=status, headers=headers)
        return web.Response(status=self.status) if self.status else None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        reference = request.match_info["reference"]
        while self.hangs:
            await self._say_nothing()
        if self.status_of_all:
            self.requests["refused"] += 1
            return web.Response(status=self.status_of_all)
        digest = self.tags.get((request.match_info["repository"], reference), reference)
        content = self.contents.get(digest)
        self.requests[f"{request.method} {reference}"] += 1
        manifest = request.match_info["kind"] == "manifests"
        refusal = None if manifest else self._refusal(request)
        if refusal is not None:
            return refusal
        if content is None:
            raise web.HTTPNotFound
        if self.delay and not manifest and request.method != "HEAD":
            await asyncio.sleep(self.delay)
        generation = self._generation
        part = None if self.ignores_ranges else parse_range(request.headers.get("Range"), len(content))
        self.ranges += part is not None
        start, end = (part.start, part.end) if part is not None else (0, len(content))
        headers = {
            "Content-Type": OCI_MANIFEST if manifest else "application/octet-stream",
            "Docker-Content-Digest": digest,
            "Content-Length": str(end - start),
        }
        if part is not None:
            headers["Content-Range"] = part.content_range(len(content))
        if request.method == "HEAD" and self.empty_heads and not manifest:
            self.empty_heads -= 1
            headers["Content-Length"] = "0"
        response = web.StreamResponse(status=200 if part is None else 206, headers=headers)
        silent_from = self.silent.get(digest)
        if request.method != "HEAD" and silent_from == 0:
            await self._say_nothing()
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        if digest in self.corrupt:
            content = bytes(byte ^ 0xFF for byte in content)
        stop = min(end, self.truncate) if self.truncate and not manifest else end
        if self.lies and not manifest:
            length, content = self.lies.pop(0)
            stop = min(end, start + length)
        if self.closes_every and not manifest:
            stop = min(stop, start + self.closes_every)
        stop = stop if silent_from is None else min(stop, silent_from)
        stalled = self.stalls.pop(0) if self.stalls and not manifest and request.method != "HEAD" else None
        stop = stop if stalled is None else min(stop, start + stalled)
        try:
            size = int(min(_CHUNK, max(self.rate * _TRICKLE_SECONDS, 1))) if self.rate else _CHUNK
            for offset in range(start, stop, size):
                if self.wants_tokens and generation != self._generation and not manifest:
                    break
                chunk = content[offset : min(offset + size, stop)]
                await response.write(chunk)
                self.sent[digest] += len(chunk)
                if self.rate:
                    await asyncio.sleep(len(chunk) / self.rate)
                if self.total_rate:
                    await asyncio.sleep(self._turn(len(chunk)))
        except ConnectionError:
            return response
        if stop < end and (silent_from is not None or stalled is not None):
            await self._say_nothing()
        if (stop < end or generation != self._generation) and request.transport is not None:
            request.transport.close()
        return response

    def _turn(self, size: int) -> float:
        """Seconds until so many bytes have their turn among those of all responses."""
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + size / self.total_rate
        return self._free_at - now

    @staticmethod
    async def _say_nothing() -> None:
        """Until the other side leaves, or the origin ends."""
        await asyncio.Event().wait()
