"""The upstream registries: the origin that the piece engine fetches from, and what else clients want of a registry."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Self

import aiohttp

from peer.origin import OriginDenied, OriginError, OriginNotFound, OriginUnavailable
from proxy.addresses import PublicResolver
from proxy.authorization import CATALOG
from proxy.body import UpstreamBody, answered_range, content_length, parse_content_range, size_differs
from proxy.egress import Egress
from proxy.endpoint import Question, Sessions
from proxy.identity import ANONYMOUS, Identity
from proxy.lending import Lending
from proxy.limits import MAX_QUIET_SECONDS, LimitBoard
from proxy.memory import AnswerMemory
from proxy.naming import is_public_name
from proxy.registry import UpstreamRegistry
from proxy.retry import Limited, Sleep, answering, persist, read_whole
from proxy.settings import ProxySettings, UpstreamSettings
from shoal.descriptor import (
    MANIFEST_TYPES,
    MAX_MANIFEST_SIZE,
    SCHEMA1_TYPES,
    BlobKind,
    Descriptor,
    parse_media_type,
)
from shoal.digest import Digest, InvalidDigest
from shoal.pieces import MAX_BLOB_SIZE
from shoal.ranges import ByteRange
from shoal.recent import Recent
from shoal.reference import Location, Registry, Tag
from shoal.traces import NO_TRACES, Traces

MAX_LISTING_SIZE = 8 << 20
"""Bytes of a list of tags or referrers."""

MANIFEST_ACCEPT = ", ".join((*MANIFEST_TYPES, "*/*"))
"""What an upstream is told that this mirror takes, unless a client takes less."""

_HINT_SECONDS = 1.5
"""How long a registry has for its answer to HEAD, which is only a hint; then GET has the rest of the time."""

_MAX_OTHERS = 256
"""Registries that the configuration does not name and that are remembered."""

_BLOB_HEADERS = {"Accept": "*/*"}
_LISTING_HEADERS = {"Accept": "application/vnd.oci.image.index.v1+json, application/json, */*"}
_PASSED_HEADERS = ("Content-Type", "OCI-Filters-Applied")


@dataclass(frozen=True, slots=True)
class Listing:
    """A registry's list, as it came; `headers` are those that a client needs with it, `links` its `Link` headers."""

    body: bytes
    headers: Mapping[str, str]
    links: tuple[str, ...] = ()


class UpstreamClient:
    """All upstreams (`peer.origin.Origin`), as an async context manager that holds their connections."""

    def __init__(
        self,
        settings: ProxySettings,
        board: LimitBoard,
        *,
        connections: int = 256,
        traces: Traces = NO_TRACES,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `CredentialsUnreadable`. `connections`: how many there may be to all upstreams together.

        `sleep` is what passes time between tries.
        """
        self._settings = settings
        self._connections = connections
        self._traces = traces
        self._sleep = sleep
        self._clock = clock
        self._board = board
        self._sessions: Sessions | None = None
        self._stack = contextlib.AsyncExitStack()
        self._egress = _egress(settings)
        self._http_proxies = set(self._egress.hosts)
        self._named = {
            Registry(name): self._make(Registry(name), upstream, self._egress)
            for name, upstream in settings.upstreams.items()
        }
        self._others: Recent[Registry, UpstreamRegistry] = Recent(_MAX_OTHERS)
        self._lending = Lending(clock)
        self._memory = AnswerMemory()

    async def __aenter__(self) -> Self:
        resolver = PublicResolver(self._http_proxies)
        self._sessions = Sessions.open(self._connections, resolver, self._traces.of_requests())
        self._stack.push_async_callback(self._sessions.close)
        self._stack.push_async_callback(self._close_registries)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def prepare(self, settings: ProxySettings) -> Callable[[], None]:
        """Read what other settings name; they hold when what is returned is called. Raises `CredentialsUnreadable`.

        Registries of which nothing changes go on as they are, but for files that they name, which are read again.
        """
        egress = _egress(settings)
        named = {
            Registry(name): self._renewed(Registry(name), upstream, egress)
            for name, upstream in settings.upstreams.items()
        }

        def take_over() -> None:
            # what runs at registries that go ends by itself
            self._settings, self._egress, self._named = settings, egress, named
            self._http_proxies |= egress.hosts
            if not settings.any_upstream:
                self._others.clear()

        return take_over

    # --- whose credentials ----------------------------------------------------------------------------------------

    async def public(self, registry: Registry) -> Identity:
        """As whom clients that say nothing are served; raises `OriginDenied` for a registry that is not stood for."""
        return await self._registry(registry).public()

    async def node(self, registry: Registry) -> Identity:
        """As whom this node itself asks: nobody where it has no credentials. Raises `OriginDenied`."""
        node = await self._registry(registry).node()
        return ANONYMOUS if node is None else node

    def lend(self, location: Location, identity: Identity) -> None:
        """A client whom the origin lets read there: for some minutes, the engine may fetch for him as him."""
        if identity.is_client:
            self._lending.lend(location, identity)

    async def named(self, registry: Registry, name: str) -> Identity | None:
        """Whom `name` stands for on all nodes: nobody, or this node, where it has these credentials."""
        if name == ANONYMOUS.key:
            return ANONYMOUS
        try:
            node = await self._registry(registry).node()
        except OriginError:
            return None
        return node if node is not None and node.key == name else None

    def quieten(self, registry: Registry, seconds: float) -> None:
        """The cluster says that an upstream has answered 429 to another node."""
        found = self._named.get(registry) or self._others.get(registry)
        if found is not None:
            found.quiet_until = max(found.quiet_until, self._clock() + min(seconds, MAX_QUIET_SECONDS))
            self._board.quieten(registry, seconds)

    # --- questions ------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def fetch(
        self, location: Location, blob: Descriptor, start: int = 0, end: int | None = None
    ) -> AsyncIterator[UpstreamBody]:
        """Bytes `start` to `end` of a blob, as `peer.origin.Origin` has it; raises `OriginError`."""
        registry = self._registry(location.registry)
        if blob.kind is BlobKind.MANIFEST and blob.size > MAX_MANIFEST_SIZE:
            raise OriginUnavailable(f"a manifest of {blob.size} bytes is over the limit of {MAX_MANIFEST_SIZE}")
        wanted = ByteRange(start, blob.size if end is None else min(end, blob.size))
        headers = dict(_headers(blob.kind))
        if wanted != ByteRange(0, blob.size):
            headers["Range"] = f"bytes={wanted.start}-{wanted.end - 1}"

        question = Question("GET", location.repository, _path(blob.digest, blob.kind), headers)
        response = await self._open_as_any(registry, location, question)
        try:
            answered = answered_range(response.status, response.headers, blob, wanted)
            host, received = response.url.host or location.registry, self._board.received(location.registry)
            body = UpstreamBody(host, response.content, answered, blob.size, received)
            if blob.kind is BlobKind.MANIFEST and response.status == 200 and content_length(response.headers) is None:
                size = await body.gather(MAX_MANIFEST_SIZE)
                if size != blob.size:
                    raise size_differs(blob, size)
            else:
                await body.begin()
            yield body
        finally:
            response.close()

    async def head(
        self,
        location: Location,
        reference: Tag | Digest,
        kind: BlobKind,
        identity: Identity,
        accept: str = "",
    ) -> Descriptor:
        """What a tag or a digest stands for, by HEAD; by GET where that does not tell. Raises `OriginError`.

        `accept`: the client's, where it takes less than all kinds of manifests.
        """
        headers = dict(_headers(kind))
        if accept and kind is BlobKind.MANIFEST:
            headers["Accept"] = accept
        async with answering(location.registry) as limit:
            return await self._head(location, reference, kind, identity, headers, limit)

    async def check(self, registry: Registry, identity: Identity) -> Mapping[str, str]:
        """Whether the registry as such lets somebody in (`GET /v2/`); raises `OriginError`. Returns its headers.

        Nobody is who has no token either: clients that have none yet are to hear the registry's own challenge.
        """
        found = self._registry(registry)
        signed = identity != ANONYMOUS or not found.settings.sign_in
        question = Question("GET", "", "", {"Accept": "application/json, */*"}, signed=signed)
        async with answering(registry), found.opened(question, identity) as response:
            return response.headers

    async def listing(self, location: Location, endpoint: str, query: str, identity: Identity) -> Listing:
        """`tags/list` or `referrers/DIGEST` of a repository; raises `OriginError`. `query` stands as in an address."""
        return await self._list(
            location.registry, Question("GET", location.repository, endpoint, _LISTING_HEADERS, query), identity
        )

    def has_catalog(self, registry: Registry) -> bool:
        """Whether the configuration lets clients see a registry's repositories."""
        named = self._settings.upstream(registry)
        return named is not None and named.catalog

    async def catalog(self, registry: Registry, query: str, identity: Identity) -> Listing:
        """`_catalog` of a registry; raises `OriginError`."""
        return await self._list(registry, Question("GET", CATALOG, "_catalog", _LISTING_HEADERS, query), identity)

    async def _list(self, name: Registry, question: Question, identity: Identity) -> Listing:
        registry = self._registry(name)

        async def ask() -> Listing:
            async with registry.opened(question, identity) as response:
                with self._memory.holding() as take:
                    body = await read_whole(response, MAX_LISTING_SIZE, limit, take)
                headers = {name: response.headers[name] for name in _PASSED_HEADERS if name in response.headers}
                headers = {name: value for name, value in headers.items() if value.isascii()}  # as it can be sent on
                return Listing(body, headers, tuple(response.headers.getall("Link", [])))

        async with answering(name) as limit:
            return await persist(ask, registry.settings, self._sleep)

    async def _head(
        self,
        location: Location,
        reference: Tag | Digest,
        kind: BlobKind,
        identity: Identity,
        headers: Mapping[str, str],
        limit: asyncio.Timeout,
    ) -> Descriptor:
        registry = self._registry(location.registry)
        question = Question("HEAD", location.repository, _path(reference, kind), headers)
        try:
            async with registry.opened(question, identity, patience=_HINT_SECONDS) as response:
                found = _described(response.headers, reference, kind)
        except Limited:
            raise
        except TimeoutError:
            found = None
        except OriginDenied as error:
            if error.challenges:
                raise
            found = None  # an address signed for GET alone, behind a redirect, or a registry that knows no HEAD
        except OriginError:
            found = None
        if found is not None:
            return found
        if kind is BlobKind.BLOB:
            assert isinstance(reference, Digest)
            return await self._probe(location, reference, identity)
        return await self._read(location, reference, identity, headers, limit)

    async def _read(
        self,
        location: Location,
        reference: Tag | Digest,
        identity: Identity,
        headers: Mapping[str, str],
        limit: asyncio.Timeout,
    ) -> Descriptor:
        """A manifest's descriptor from the manifest itself."""
        registry = self._registry(location.registry)
        question = Question("GET", location.repository, _path(reference, BlobKind.MANIFEST), headers)

        async def ask() -> Descriptor:
            async with registry.opened(question, identity) as response:
                with self._memory.holding() as take:
                    content = await read_whole(response, MAX_MANIFEST_SIZE, limit, take)
                media_type = _media_type(response.headers)
                digest = reference if isinstance(reference, Digest) else _told(response.headers) or Digest.of(content)
                hasher = digest.hasher()
                hasher.update(content)
                if not digest.matches(hasher) and media_type not in SCHEMA1_TYPES:
                    raise OriginUnavailable(f"what came is not {digest}")
                return Descriptor(digest, len(content), media_type, BlobKind.MANIFEST)

        return await persist(ask, registry.settings, self._sleep)

    async def _probe(self, location: Location, digest: Digest, identity: Identity) -> Descriptor:
        """A blob's descriptor from the headers of an answer with its first byte."""
        registry = self._registry(location.registry)
        headers = {**_BLOB_HEADERS, "Range": "bytes=0-0"}
        question = Question("GET", location.repository, _path(digest, BlobKind.BLOB), headers)

        async def ask() -> Descriptor:
            async with registry.opened(question, identity) as response:
                if response.status == 206:
                    _, size = parse_content_range(response.headers.get("Content-Range"))
                else:
                    size = content_length(response.headers) if response.status == 200 else None
                if not size or size > MAX_BLOB_SIZE:
                    raise OriginUnavailable(f"{location.registry} tells no size that {digest} can have")
                return Descriptor(digest, size, _media_type(response.headers))

        return await persist(ask, registry.settings, self._sleep)

    async def _open_as_any(
        self, registry: UpstreamRegistry, location: Location, question: Question
    ) -> aiohttp.ClientResponse:
        """An answer to any of those as whom this node may fetch there: itself, its clients, nobody."""
        node = await registry.node()
        refused: OriginDenied | OriginNotFound | None = None
        for identity in self._lending.order(location, node):
            try:
                response = await registry.open(question, identity, is_judged=True)
            except OriginDenied as error:
                self._lending.refused(location, identity)
                refused = error if refused is None else refused
                continue
            except OriginNotFound as error:
                if self._lending.was_served(location, identity):
                    raise
                refused = error  # some registries say so to whom they hide a repository
                continue
            self._lending.served(location, identity)
            return response
        assert refused is not None  # there is always somebody to ask as
        raise refused

    # --- registries -----------------------------------------------------------------------------------------------

    def _make(
        self, name: Registry, settings: UpstreamSettings, egress: Egress, *, public_only: bool = False
    ) -> UpstreamRegistry:
        return UpstreamRegistry(
            name, settings, egress, self._open_sessions, self._clock, self._board, public_only=public_only
        )

    def _renewed(self, name: Registry, settings: UpstreamSettings, egress: Egress) -> UpstreamRegistry:
        """A registry by other settings; it keeps its silence after a 429."""
        before = self._named.get(name)
        if before is not None and before.settings == settings and not settings.names_files():
            return before
        registry = self._make(name, settings, egress)
        registry.quiet_until = 0.0 if before is None else before.quiet_until
        return registry

    def _registry(self, name: Registry) -> UpstreamRegistry:
        registry = self._named.get(name) or self._others.get(name)
        if registry is not None:
            return registry
        if not self._settings.any_upstream or not is_public_name(name):
            raise OriginDenied(f"no upstream {name!r} is configured")
        registry = self._make(name, UpstreamSettings(url=f"https://{name}"), self._egress, public_only=True)
        return self._others.put(name, registry)  # what runs at one that goes for it ends by itself

    async def _close_registries(self) -> None:
        for registry in [*self._named.values(), *self._others.values()]:
            await registry.close()

    def _open_sessions(self) -> Sessions:
        if self._sessions is None:
            raise RuntimeError("an UpstreamClient is used outside of its `async with`")
        return self._sessions


def _egress(settings: ProxySettings) -> Egress:
    return Egress(settings.http_proxy, settings.https_proxy, settings.no_proxy, settings.own_http_proxies)


def _path(reference: Tag | Digest, kind: BlobKind) -> str:
    return f"{'manifests' if kind is BlobKind.MANIFEST else 'blobs'}/{reference}"


def _headers(kind: BlobKind) -> Mapping[str, str]:
    return {"Accept": MANIFEST_ACCEPT} if kind is BlobKind.MANIFEST else _BLOB_HEADERS


def _media_type(headers: Mapping[str, str]) -> str:
    return parse_media_type(headers.get("Content-Type", ""))


def _told(headers: Mapping[str, str]) -> Digest | None:
    """The digest that the upstream says, where it says one."""
    try:
        return Digest(headers.get("Docker-Content-Digest", ""))
    except InvalidDigest:
        return None


def _described(headers: Mapping[str, str], reference: Tag | Digest, kind: BlobKind) -> Descriptor | None:
    """What an answer to HEAD tells; None where it lacks the length or, for a tag, the digest.

    A length of 0 is what servers say that do not know it, except of a digest of nothing.
    """
    size = content_length(headers)
    digest = reference if isinstance(reference, Digest) else _told(headers)
    if digest is None:
        return None
    if size is None or (size == 0 and not digest.matches(digest.hasher())):
        return None
    limit = MAX_MANIFEST_SIZE if kind is BlobKind.MANIFEST else MAX_BLOB_SIZE
    if size > limit:
        raise OriginUnavailable(f"a {kind} of {size} bytes is over the limit of {limit}")
    return Descriptor(digest, size, _media_type(headers), kind)
