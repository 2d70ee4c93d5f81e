"""A front before a registry or a node: counts what is asked, and does to answers what registries do on bad days."""

from __future__ import annotations

import asyncio
import io
import secrets
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Self

import aiohttp
from aiohttp import ClientTimeout, hdrs, web
from multidict import CIMultiDict
from yarl import URL

from bench.daemons import free_ports
from tests.world.threads import serve

_CHUNK = 64 << 10
_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "proxy-connection"}
_SIGNED_PATH = "/signed"
_READS = {hdrs.METH_GET, hdrs.METH_HEAD}
_KINDS = ("manifests", "blobs", "tags", "referrers", "base")


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    """By names in lower case."""
    connection: int
    """The port that it came from."""

    @property
    def kind(self) -> str:
        """`manifests`, `blobs`, `tags`, `referrers`, else `base`."""
        segments = self.path.split("/")
        return segments[-2] if segments[-2] in _KINDS else "base"

    @property
    def reference(self) -> str:
        """A tag or a digest."""
        return self.path.rpartition("/")[2]


@dataclass
class Fault:
    """What becomes of the answers that it is set for."""

    status: int = 0
    """Answered in place of the registry's word."""
    cut: int = 0
    """Bodies end behind so many bytes, with their connection."""
    times: int = -1
    """For so many answers of each reference; -1: for all."""
    rate: float = 0.0
    """Bytes/s of each body; 0: no limit."""
    kinds: tuple[str, ...] = _KINDS
    _counted: Counter[str] = field(default_factory=Counter)

    def strikes(self, reference: str) -> bool:
        """Whether this answer meets it; counts."""
        self._counted[reference] += 1
        return self.times < 0 or self._counted[reference] <= self.times


@dataclass(frozen=True)
class _Signed:
    """What a signed URL stands for, and until when (monotonic)."""

    url: str
    authorization: str | None
    until: float
    reference: str
    fault: Fault | None


@dataclass
class Front:
    """A reverse proxy on loopback that changes nothing unless it is told to."""

    target: str
    """The address of what it stands for."""
    reads: str = ""
    """Where GET and HEAD go instead, those of running uploads aside; empty: to `target` too."""
    redirects: bool = False
    """GETs of blobs are answered with 307 to another address, by URLs that are signed for GET alone and expire, as
    object stores do."""
    url_lifetime: float = 60.0
    """Seconds for which a signed URL is good."""
    refused: dict[str, int] = field(default_factory=dict)
    """Statuses by values of Authorization that are answered so, without a challenge: tokens that were revoked."""
    faults: dict[str, Fault] = field(default_factory=dict)
    """By the beginning of the repository's name; the first that fits."""
    seen: list[Seen] = field(default_factory=list)
    store_seen: list[Seen] = field(default_factory=list)
    """What the redirects' address was asked for."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of bodies by kind."""
    port: int = 0
    store_port: int = 0
    _signed: dict[str, _Signed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port, self.store_port = free_ports(2)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, stack: ExitStack) -> Self:
        """Serve from a thread until `stack` ends."""

        async def start(inner: AsyncExitStack) -> None:
            self._session = await inner.enter_async_context(
                aiohttp.ClientSession(
                    auto_decompress=False,
                    timeout=ClientTimeout(total=None),
                    connector=aiohttp.TCPConnector(limit=0),
                    skip_auto_headers=[hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE],
                )
            )
            for port, handler in ((self.port, self._answer), (self.store_port, self._answer_signed)):
                app = web.Application(client_max_size=1 << 30)
                app.router.add_route("*", "/{path:.*}", handler)
                runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
                await runner.setup()
                inner.push_async_callback(runner.cleanup)
                await web.TCPSite(runner, "127.0.0.1", port).start()

        serve(start, stack)
        return self

    def asked(self, method: str, kind: str, repository: str = "") -> list[Seen]:
        """The requests so far of a kind, of all repositories or of one."""
        part = f"/v2/{repository}/{kind}/" if repository else ""
        return [each for each in list(self.seen) if each.method == method and each.kind == kind and part in each.path]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        seen = _seen(request)
        self.seen.append(seen)
        fault = self._fault(seen)
        status = self.refused.get(request.headers.get(hdrs.AUTHORIZATION, ""), 0)
        if fault is not None and fault.status and fault.strikes(seen.reference):
            status = fault.status
        if status:
            return web.json_response({"errors": [{"code": "UNKNOWN", "message": "made by the front"}]}, status=status)
        url = self._target(request) + request.raw_path
        if self.redirects and seen.kind == "blobs" and request.method == hdrs.METH_GET:
            return await self._redirect(request, url, seen.reference, fault)
        return await self._pass(request, url, _passed(request.headers.items()), seen.reference, fault)

    async def _redirect(
        self, request: web.Request, url: str, reference: str, fault: Fault | None
    ) -> web.StreamResponse:
        """The registry's own refusal, else a URL that is good for a while."""
        headers = _passed(request.headers.items())
        async with self._session.head(URL(url, encoded=True), headers=headers) as answer:
            if answer.status >= 400:
                return await self._pass(request, url, headers, "", None)
        signature = secrets.token_urlsafe(16)
        until = time.monotonic() + self.url_lifetime
        self._signed[signature] = _Signed(url, request.headers.get(hdrs.AUTHORIZATION), until, reference, fault)
        location = f"http://127.0.0.1:{self.store_port}{_SIGNED_PATH}?X-Signature={signature}"
        return web.Response(status=307, headers={hdrs.LOCATION: location})

    async def _answer_signed(self, request: web.Request) -> web.StreamResponse:
        self.store_seen.append(_seen(request))
        signed = self._signed.get(request.query.get("X-Signature", ""))
        if hdrs.AUTHORIZATION in request.headers:
            return web.Response(status=400, text="Only one auth mechanism allowed")
        if signed is None or request.method != hdrs.METH_GET or time.monotonic() > signed.until:
            return web.Response(status=403, text="Request has expired")
        headers = _passed(request.headers.items())
        headers[hdrs.HOST] = URL(signed.url).authority
        if signed.authorization is not None:
            headers[hdrs.AUTHORIZATION] = signed.authorization
        return await self._pass(request, signed.url, headers, signed.reference, signed.fault)

    async def _pass(
        self, request: web.Request, url: str, headers: CIMultiDict[str], reference: str, fault: Fault | None
    ) -> web.StreamResponse:
        body = io.BytesIO(await request.read()) if request.body_exists else None
        async with self._session.request(
            request.method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False
        ) as answer:
            response = web.StreamResponse(status=answer.status, headers=_passed(answer.headers.items()))
            await response.prepare(request)
            if request.method == hdrs.METH_HEAD:
                return response
            left = fault.cut if fault is not None and fault.cut and fault.strikes(reference) else None
            async for chunk in answer.content.iter_chunked(_CHUNK):
                part = chunk if left is None else chunk[:left]
                await response.write(part)
                self.sent["blobs" if "/blobs/" in url else "others"] += len(part)
                if fault is not None and fault.rate:
                    await asyncio.sleep(len(part) / fault.rate)
                if left is not None:
                    left -= len(part)
                    if not left and request.transport is not None:
                        request.transport.close()
                        return response
            await response.write_eof()
            return response

    def _target(self, request: web.Request) -> str:
        is_read = request.method in _READS and "/blobs/uploads/" not in request.path
        return self.reads if is_read and self.reads else self.target

    def _fault(self, seen: Seen) -> Fault | None:
        name = seen.path.removeprefix("/v2/")
        faults = ((start, fault) for start, fault in self.faults.items() if seen.kind in fault.kinds)
        return next((fault for start, fault in faults if name.startswith(start)), None)


def _seen(request: web.Request) -> Seen:
    headers = {name.lower(): ", ".join(request.headers.getall(name)) for name in request.headers}
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return Seen(request.method, request.path, request.query_string, headers, peer[1] if peer else 0)


def _passed(headers: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers if name.lower() not in _OF_ONE_CONNECTION)
