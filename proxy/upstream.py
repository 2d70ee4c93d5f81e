"""The upstream registries: the origin that the piece engine fetches from, and what else clients want of a registry."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Self

import aiohttp

from peer.origin import OriginDenied, OriginUnavailable
from proxy.body import UpstreamBody, answered_range, content_length, parse_content_range, size_differs
from proxy.registry import UpstreamRegistry, open_session
from proxy.retry import Sleep, answering, persist, read_whole
from proxy.settings import ProxySettings
from shoal.descriptor import MANIFEST_TYPES, MAX_MANIFEST_SIZE, BlobKind, Descriptor
from shoal.digest import Digest, InvalidDigest
from shoal.ranges import ByteRange
from shoal.reference import Location, Registry, Tag

MAX_LISTING_SIZE = 8 << 20
"""Bytes of a list of tags or referrers."""

_MANIFEST_HEADERS = {"Accept": ", ".join((*MANIFEST_TYPES, "*/*"))}
_BLOB_HEADERS = {"Accept": "*/*"}
_LISTING_HEADERS = {"Accept": "application/json, */*"}
_PASSED_HEADERS = ("Content-Type", "Link", "OCI-Filters-Applied")


@dataclass(frozen=True, slots=True)
class Listing:
    """A registry's list of tags or referrers, as it came; `headers` are those that a client needs with it."""

    body: bytes
    headers: Mapping[str, str]


class UpstreamClient:
    """All configured upstreams (`peer.origin.Origin`), as an async context manager that holds their connections."""

    def __init__(
        self,
        settings: ProxySettings,
        *,
        connections: int = 256,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `CredentialsUnreadable`. `connections`: how many there may be to all upstreams together.

        `sleep` is what passes time between tries.
        """
        self._connections = connections
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None
        self._stack = contextlib.AsyncExitStack()
        self._registries = {
            name: UpstreamRegistry(Registry(name), upstream, self._open_session, clock)
            for name, upstream in settings.upstreams.items()
        }

    async def __aenter__(self) -> Self:
        self._session = await self._stack.enter_async_context(open_session(self._connections))
        for registry in self._registries.values():
            self._stack.push_async_callback(registry.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @contextlib.asynccontextmanager
    async def fetch(
        self, location: Location, blob: Descriptor, start: int = 0, end: int | None = None
    ) -> AsyncIterator[UpstreamBody]:
        """Bytes `start` to `end` of a blob, as `peer.origin.Origin` has it; raises `OriginError`."""
        registry = self._registry(location)
        if blob.kind is BlobKind.MANIFEST and blob.size > MAX_MANIFEST_SIZE:
            raise OriginUnavailable(f"a manifest of {blob.size} bytes is over the limit of {MAX_MANIFEST_SIZE}")
        wanted = ByteRange(start, blob.size if end is None else min(end, blob.size))
        headers = dict(_headers(blob.kind))
        if wanted != ByteRange(0, blob.size):
            headers["Range"] = f"bytes={wanted.start}-{wanted.end - 1}"

        response = await registry.open(location.repository, "GET", _path(blob.digest, blob.kind), headers)
        try:
            answered = answered_range(response.status, response.headers, blob, wanted)
            body = UpstreamBody(response.content, answered, blob.size)
            if blob.kind is BlobKind.MANIFEST and response.status == 200 and content_length(response.headers) is None:
                size = await body.gather(MAX_MANIFEST_SIZE)
                if size != blob.size:
                    raise size_differs(blob, size)
            else:
                await body.begin()
            yield body
        finally:
            response.close()

    async def head(self, location: Location, reference: Tag | Digest, kind: BlobKind) -> Descriptor:
        """What a tag or a digest stands for, by HEAD; by GET where that does not tell. Raises `OriginError`."""
        async with answering(location.registry) as limit:
            return await self._head(location, reference, kind, limit)

    async def _head(
        self, location: Location, reference: Tag | Digest, kind: BlobKind, limit: asyncio.Timeout
    ) -> Descriptor:
        registry = self._registry(location)

        async def ask() -> Descriptor | None:
            async with registry.opened(location.repository, "HEAD", _path(reference, kind), _headers(kind)) as response:
                return _described(response.headers, reference, kind)

        try:
            found = await persist(ask, registry.settings, self._sleep)
        except OriginDenied:
            if kind is BlobKind.MANIFEST:
                raise
            found = None  # an address signed for GET alone, behind a redirect
        if found is not None:
            return found
        if kind is BlobKind.BLOB:
            assert isinstance(reference, Digest)
            return await self._probe(location, reference)
        return await self._read(location, reference, limit)

    async def listing(self, location: Location, endpoint: str, query: Mapping[str, str]) -> Listing:
        """`tags/list` or `referrers/DIGEST` of a repository; raises `OriginError`."""
        registry = self._registry(location)

        async def ask() -> Listing:
            async with registry.opened(location.repository, "GET", endpoint, _LISTING_HEADERS, query) as response:
                body = await read_whole(response, MAX_LISTING_SIZE, limit)
                headers = {name: response.headers[name] for name in _PASSED_HEADERS if name in response.headers}
                return Listing(body, headers)

        async with answering(location.registry) as limit:
            return await persist(ask, registry.settings, self._sleep)

    async def _read(self, location: Location, reference: Tag | Digest, limit: asyncio.Timeout) -> Descriptor:
        """A manifest's descriptor from the manifest itself."""
        registry = self._registry(location)

        async def ask() -> Descriptor:
            path = _path(reference, BlobKind.MANIFEST)
            async with registry.opened(location.repository, "GET", path, _MANIFEST_HEADERS) as response:
                content = await read_whole(response, MAX_MANIFEST_SIZE, limit)
                digest = reference if isinstance(reference, Digest) else Digest.of(content)
                hasher = digest.hasher()
                hasher.update(content)
                if not digest.matches(hasher):
                    raise OriginUnavailable(f"what came is not {digest}")
                return Descriptor(digest, len(content), _media_type(response.headers), BlobKind.MANIFEST)

        return await persist(ask, registry.settings, self._sleep)

    async def _probe(self, location: Location, digest: Digest) -> Descriptor:
        """A blob's descriptor from the headers of an answer with its first byte."""
        registry = self._registry(location)
        headers = {**_BLOB_HEADERS, "Range": "bytes=0-0"}

        async def ask() -> Descriptor:
            path = _path(digest, BlobKind.BLOB)
            async with registry.opened(location.repository, "GET", path, headers) as response:
                if response.status == 206:
                    _, size = parse_content_range(response.headers.get("Content-Range"))
                else:
                    size = content_length(response.headers) if response.status == 200 else None
                if not size:
                    raise OriginUnavailable(f"{location.registry} does not tell the size of {digest}")
                return Descriptor(digest, size, _media_type(response.headers))

        return await persist(ask, registry.settings, self._sleep)

    def _registry(self, location: Location) -> UpstreamRegistry:
        registry = self._registries.get(location.registry)
        if registry is None:
            raise OriginDenied(f"no upstream {location.registry!r} is configured")
        return registry

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("an UpstreamClient is used outside of its `async with`")
        return self._session


def _path(reference: Tag | Digest, kind: BlobKind) -> str:
    return f"{'manifests' if kind is BlobKind.MANIFEST else 'blobs'}/{reference}"


def _headers(kind: BlobKind) -> Mapping[str, str]:
    return _MANIFEST_HEADERS if kind is BlobKind.MANIFEST else _BLOB_HEADERS


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip()


def _described(headers: Mapping[str, str], reference: Tag | Digest, kind: BlobKind) -> Descriptor | None:
    """What an answer to HEAD tells; None where it lacks the length or, for a tag, the digest.

    A length of 0 is what servers say that do not know it, except of a digest of nothing.
    """
    size = content_length(headers)
    try:
        digest = reference if isinstance(reference, Digest) else Digest(headers.get("Docker-Content-Digest", ""))
    except InvalidDigest:
        return None
    if size is None or (size == 0 and not digest.matches(digest.hasher())):
        return None
    if kind is BlobKind.MANIFEST and size > MAX_MANIFEST_SIZE:
        raise OriginUnavailable(f"a manifest of {size} bytes is over the limit of {MAX_MANIFEST_SIZE}")
    return Descriptor(digest, size, _media_type(headers), kind)
