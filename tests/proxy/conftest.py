"""The world of the proxy's tests: HTTP servers on loopback, and an engine of some lines in place of the real one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict
from prometheus_client import CollectorRegistry

from peer.asked import Asked
from peer.origin import OriginError, OriginNotFound, SizeDiffers
from peer.plans import ImagePlans
from peer.sink import Sink, Source
from proxy.identity import ANONYMOUS, Identity
from proxy.limits import LimitBoard
from proxy.metrics import ProxyMetrics
from proxy.server import ProxyServer
from proxy.settings import ProxySettings, UpstreamSettings
from proxy.upstream import Listing, UpstreamClient
from shoal.descriptor import OCI_MANIFEST, BlobKind, Descriptor
from shoal.digest import Digest
from shoal.reference import Location, Registry, Tag
from supernode.protocol import Resolved
from tests.world.catalogue import open_catalogue

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
REGISTRY = "registry.example:5000"


class MemoryBlob:
    """An open blob of the memory engine."""

    def __init__(self, engine: MemoryEngine, descriptor: Descriptor) -> None:
        self._engine = engine
        self._stored = engine.store.find(descriptor.digest)
        size = engine.resized.get(descriptor.digest, descriptor.size)
        self.descriptor = Descriptor(descriptor.digest, size, descriptor.media_type, descriptor.kind)

    def sources(self, start: int, end: int) -> list[tuple[Source, int]]:
        return [("origin" if self._stored is None else "store", end - start)]

    async def __aenter__(self) -> MemoryBlob:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._engine.left += 1
        self._engine.was_left.set()
        if self._engine.leave_error is not None:
            raise self._engine.leave_error

    async def ready(self, start: int) -> None:
        engine = self._engine
        if engine.error is not None:
            raise engine.error
        content = engine.contents.get(self.descriptor.digest)
        if engine.checks_sizes and content is not None and len(content) != self.descriptor.size:
            raise SizeDiffers(f"{len(content)} bytes, {self.descriptor.size} were expected", len(content))

    async def send(self, sink: Sink, start: int, end: int) -> None:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self._stored.open("rb")) if self._stored is not None else None
            step = max(1, (end - start) // 4)
            for offset in range(start, end, step):
                self._fail_behind(offset - start)
                await self._engine.gate.wait()
                until = min(offset + step, end)
                if file is not None:
                    await sink.send_file(file.fileno(), offset, until)
                else:
                    await sink.write(memoryview(self._engine.contents[self.descriptor.digest])[offset:until])
            self._fail_behind(end - start)
            if self._engine.oversend:
                await sink.write(bytes(self._engine.oversend))

    async def content(self) -> bytes:
        await self.ready(0)
        self._fail_behind(self.descriptor.size)
        return self._engine.contents[self.descriptor.digest] if self._stored is None else self._stored.read_bytes()

    def _fail_behind(self, given: int) -> None:
        if given >= self._engine.breaks_after:
            raise self._engine.break_error


@dataclass
class FileStore:
    """Stored blobs as files of one folder."""

    folder: Path

    def find(self, digest: Digest) -> Path | None:
        path = self.folder / digest.hex
        return path if path.exists() else None

    def size(self, digest: Digest) -> int | None:
        path = self.find(digest)
        return path.stat().st_size if path is not None else None

    def path(self, digest: Digest) -> Path:
        return self.folder / digest.hex

    def put(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        self.path(digest).write_bytes(content)
        return digest


class MemoryEngine:
    """An engine that has every blob that was put into it, and fails as it is told."""

    def __init__(self, folder: Path) -> None:
        self.store = FileStore(folder)
        self.contents: dict[Digest, bytes] = {}
        self.sizes: dict[Digest, Descriptor] = {}
        self.plans = ImagePlans()
        self.unnamed: set[Digest] = set()
        """Blobs that no manifest names, though they are there; all others are named everywhere."""
        self.checks_sizes = False
        self.resized: dict[Digest, int] = {}
        self.opened: list[Descriptor] = []
        self.asked: list[Asked | None] = []
        self.expected: list[tuple[tuple[Descriptor, ...], Location]] = []
        self.left = 0
        self.was_left = asyncio.Event()
        self.open_error: BaseException | None = None
        self.error: BaseException | None = None
        self.breaks_after: float = float("inf")
        self.break_error: BaseException = RuntimeError("not set")
        self.leave_error: BaseException | None = None
        self.oversend = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def coming(self, content: bytes, *, known: bool = True) -> Digest:
        """A blob that a download would bring."""
        digest = Digest.of(content)
        self.contents[digest] = content
        if known:
            self.sizes[digest] = Descriptor(digest, len(content))
        return digest

    def stored(self, digest: Digest) -> int | None:
        return self.store.size(digest)

    def expect(self, blobs: Sequence[Descriptor], location: Location) -> None:
        self.expected.append((tuple(blobs), location))
        self.plans.expect(blobs, location)

    def named(self, digest: Digest, location: Location) -> Descriptor | None:
        if digest in self.unnamed:
            return None
        size = self.store.size(digest)
        if size is not None:
            return Descriptor(digest, size)
        return self.plans.known(digest, location) or self.sizes.get(digest)

    def names(self, digest: Digest, size: int, location: Location) -> bool:
        return self.plans.names(digest, size, location)

    async def open(
        self, blob: Descriptor, location: Location, asked: Asked | None = None, since: float | None = None
    ) -> MemoryBlob:
        self.opened.append(blob)
        self.asked.append(asked)
        if self.open_error is not None:
            raise self.open_error
        return MemoryBlob(self, blob)


class MemoryOrigin:
    """The origin's word on references, and its lists."""

    def __init__(self) -> None:
        self.known: dict[str, Descriptor] = {}
        self.error: BaseException | None = None
        self.asked: list[tuple[Location, str, BlobKind]] = []
        self.was_asked = asyncio.Event()
        self.waiting = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.list = Listing(b'{"tags":[]}', {})
        self.listed: list[tuple[Location | Registry, str, str]] = []
        self.shared = ANONYMOUS
        self.identities: list[tuple[Identity, str]] = []
        self.lent: list[tuple[Location, Identity]] = []
        self.checked: list[tuple[Registry, Identity]] = []
        self.refused: dict[str, OriginError] = {}
        """By the key of an identity: what the origin says to it."""

    async def public(self, registry: Registry) -> Identity:
        return self.shared

    async def node(self, registry: Registry) -> Identity:
        return self.shared

    async def named(self, registry: Registry, name: str) -> Identity | None:
        return next((each for each in (ANONYMOUS, self.shared) if each.key == name), None)

    def lend(self, location: Location, identity: Identity) -> None:
        self.lent.append((location, identity))

    async def check(self, registry: Registry, identity: Identity) -> None:
        self.checked.append((registry, identity))
        if self.error is not None:
            raise self.error

    async def head(
        self, location: Location, reference: Tag | Digest, kind: BlobKind, identity: Identity, accept: str = ""
    ) -> Descriptor:
        self.asked.append((location, reference, kind))
        self.identities.append((identity, accept))
        self.was_asked.set()
        self.waiting += 1
        try:
            await self.answers.wait()
        finally:
            self.waiting -= 1
        if self.error is not None:
            raise self.error
        if identity.key in self.refused:
            raise self.refused[identity.key]
        if reference not in self.known:
            raise OriginNotFound(f"no {reference}")
        return self.known[reference]

    def has_catalog(self, registry: Registry) -> bool:
        return registry == "quay.io"

    async def catalog(self, registry: Registry, query: str, identity: Identity) -> Listing:
        self.listed.append((registry, "_catalog", query))
        return self.list

    async def listing(self, location: Location, endpoint: str, query: str, identity: Identity) -> Listing:
        self.listed.append((location, endpoint, query))
        if self.error is not None:
            raise self.error
        return self.list


class MemoryCluster:
    """A supernode's answers, and what it was told."""

    def __init__(self) -> None:
        self.answer: Resolved | None = Resolved(1, "ask")
        self.published: list[Descriptor | str | None] = []
        self.refreshed: list[Location] = []

    def refresh(self, location: Location) -> None:
        self.refreshed.append(location)

    async def resolve(
        self, location: Location, reference: Tag | Digest, kind: str, identity: str, max_age: float
    ) -> Resolved | None:
        return self.answer

    def publish(
        self,
        location: Location,
        reference: Tag | Digest,
        kind: str,
        identity: str,
        descriptor: Descriptor | None,
        *,
        missing: bool,
        denied: bool = False,
    ) -> None:
        self.published.append("missing" if missing else "denied" if denied else descriptor)


@dataclass
class Answer:
    """A response as a client sees it."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def code(self) -> str:
        """The API's error code."""
        errors = json.loads(self.body)["errors"]
        assert len(errors) == 1
        assert {"code", "message", "detail"} <= errors[0].keys()
        code: str = errors[0]["code"]
        return code


@dataclass
class Front:
    """A running proxy and what stands behind it."""

    server: ProxyServer
    engine: MemoryEngine
    origin: MemoryOrigin
    cluster: MemoryCluster
    registry: CollectorRegistry
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """One request; underscores in the names of `headers` stand for dashes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, self.url + path, headers=named) as response:
            return Answer(response.status, CIMultiDict(response.headers), await response.read())

    async def raw(self, request: bytes) -> bytes:
        """What comes back for these bytes, until the connection ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(request)
        answer = bytearray()
        try:
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(10):
                    while chunk := await reader.read(1 << 20):
                        answer += chunk
            return bytes(answer)
        finally:
            writer.transport.abort()

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def engine(tmp_path: Path) -> MemoryEngine:
    return MemoryEngine(tmp_path)


@pytest.fixture
def manifest() -> bytes:
    """An image of a configuration and two layers."""
    entries = [{"digest": Digest.of(bytes([n])), "size": n + 1, "mediaType": "x/y"} for n in range(3)]
    content = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entries[0], "layers": entries[1:]}
    return json.dumps(content).encode()


@pytest.fixture
async def front(engine: MemoryEngine) -> AsyncIterator[Front]:
    settings = ProxySettings(port=0, upstreams={REGISTRY: UpstreamSettings(), "quay.io": UpstreamSettings()})
    origin, cluster, registry = MemoryOrigin(), MemoryCluster(), CollectorRegistry()
    server = ProxyServer(settings, engine, cluster, origin, open_catalogue(), ProxyMetrics(registry))
    async with server, aiohttp.ClientSession(auto_decompress=False) as session:
        yield Front(server, engine, origin, cluster, registry, session)


@dataclass
class Site:
    """A server of a test's own."""

    url: str
    seen: list[web.Request] = field(default_factory=list)


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[Site]]]:
    """Starts a server for a handler of all requests."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(handler: Handler) -> Site:
            site = Site("")

            async def seen(request: web.BaseRequest) -> web.StreamResponse:
                site.seen.append(request)  # type: ignore[arg-type]
                return await handler(request)  # type: ignore[arg-type]

            runner = web.ServerRunner(web.Server(seen, access_log=None), shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            listening = web.TCPSite(runner, "127.0.0.1", 0)
            await listening.start()
            site.url = f"http://127.0.0.1:{listening.port}"
            return site

        yield start


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[tuple[UpstreamClient, list[float]]]]]:
    """Makes a client of an upstream named `REGISTRY`, and the list of the pauses that it would have made."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(url: str, **options: object) -> tuple[UpstreamClient, list[float]]:
            pauses: list[float] = []

            async def sleep(seconds: float) -> None:
                pauses.append(seconds)

            upstream = UpstreamSettings(url=url, **options)  # type: ignore[arg-type]
            board = LimitBoard(ProxyMetrics(CollectorRegistry()), None)
            client = UpstreamClient(ProxySettings(upstreams={REGISTRY: upstream}), board, sleep=sleep)
            return await stack.enter_async_context(client), pauses

        yield start


@pytest.fixture
def memory_origin() -> MemoryOrigin:
    return MemoryOrigin()


@pytest.fixture
def memory_cluster() -> MemoryCluster:
    return MemoryCluster()
