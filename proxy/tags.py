"""What references stand for: known here, in the cluster, or at the origin, in this order."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from peer.origin import OriginError, OriginNotFound, OriginUnavailable
from proxy.flight import SingleFlight
from proxy.metrics import ProxyMetrics
from shoal.descriptor import MAX_MANIFEST_SIZE, BlobKind, Descriptor
from shoal.digest import Digest, InvalidDigest
from shoal.reference import Location, Tag
from supernode.protocol import Resolved

log = structlog.get_logger()

MAX_ENTRIES = 50_000
STALE_SECONDS = 5.0
"""How long an answer that could not be revalidated is given before the origin is asked again."""

Key = tuple[Location, Tag | Digest, BlobKind]


class Resolver(Protocol):
    """The cluster's common knowledge (`supernode.client.ControlClient` implements it)."""

    async def resolve(self, location: Location, reference: Tag | Digest, kind: BlobKind) -> Resolved | None:
        """The supernode's answer, or None where none comes in bounded time."""

    def publish(
        self, location: Location, reference: Tag | Digest, kind: BlobKind, descriptor: Descriptor | None
    ) -> None:
        """Tell what the origin said; None where it told nothing."""


class OriginHead(Protocol):
    """The origin's own word (`proxy.upstream.UpstreamClient` implements it)."""

    async def head(self, location: Location, reference: Tag | Digest, kind: BlobKind) -> Descriptor:
        """What a reference stands for; raises `OriginError`."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a reference stands for. `stale`: the origin could not be asked whether it still does.

    `named`: the size is that of a manifest or of the store. Without, it is what the origin answered to HEAD: a hint.
    """

    descriptor: Descriptor
    stale: bool = False
    named: bool = False


class FreshnessTable:
    """The last known answers, each fresh for a time, bounded in number. Time in seconds is passed in."""

    def __init__(self, freshness: float, capacity: int = MAX_ENTRIES) -> None:
        """`freshness`: seconds that an answer is good for. A digest's size is what an answer to HEAD says: a hint."""
        self._freshness = freshness
        self._capacity = capacity
        self._entries: OrderedDict[Key, tuple[Resolution, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def fresh(self, key: Key, now: float) -> Resolution | None:
        """The answer that may be given without asking anybody."""
        entry = self._entries.get(key)
        return entry[0] if entry is not None and now < entry[1] else None

    def remember(self, key: Key, descriptor: Descriptor, now: float) -> Resolution:
        """The origin, or the cluster, says this."""
        return self._put(key, Resolution(descriptor), now + self._freshness)

    def outlive(self, key: Key, now: float) -> Resolution | None:
        """The origin cannot be asked: the last known answer, now stale, serves for some seconds more."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        return self._put(key, Resolution(entry[0].descriptor, stale=True), now + STALE_SECONDS)

    def correct(self, key: Key, wrong: Descriptor, size: int) -> None:
        """What is believed of a size is wrong: `size` takes its place for the rest of the time."""
        resolution, until = self._entries.get(key, (None, 0.0))
        if resolution is not None and resolution.descriptor == wrong:
            self._entries[key] = (replace(resolution, descriptor=replace(wrong, size=size)), until)

    def forget(self, key: Key) -> None:
        """The origin has it no more."""
        self._entries.pop(key, None)

    def _put(self, key: Key, resolution: Resolution, until: float) -> Resolution:
        self._entries[key] = (resolution, until)
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
        return resolution


class TagResolver:
    """Resolves tags to digests, and digests to sizes, so that a cluster asks the origin once per freshness period."""

    def __init__(
        self,
        freshness: float,
        resolver: Resolver | None,
        origin: OriginHead,
        metrics: ProxyMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`resolver` is None where there is no supernode."""
        self._table = FreshnessTable(freshness)
        self._resolver = resolver
        self._origin = origin
        self._metrics = metrics
        self._clock = clock
        self._flights: SingleFlight[Key, Resolution] = SingleFlight()

    async def resolve(self, location: Location, reference: Tag | Digest, kind: BlobKind) -> Resolution:
        """What a reference stands for; raises `OriginError`. Asked for by many at once it is asked for once."""
        key = (location, reference, kind)
        fresh = self._table.fresh(key, self._clock())
        if fresh is not None:
            self._metrics.tags.labels("stale" if fresh.stale else "local").inc()
            return fresh
        return await self._flights.run(key, lambda: self._resolve(key))

    def correct(self, location: Location, reference: Tag | Digest, wrong: Descriptor, size: int) -> None:
        """The origin's answer to GET tells another size than `wrong`, which `resolve` had given."""
        self._table.correct((location, reference, wrong.kind), wrong, size)

    async def close(self) -> None:
        """Give up the questions underway."""
        await self._flights.close()

    async def _resolve(self, key: Key) -> Resolution:
        if self._resolver is None or key[2] is BlobKind.BLOB:  # a blob's size is no news for a cluster
            return await self._ask_origin(key, None)
        answer = await self._resolver.resolve(*key)
        if answer is not None and answer.state == "fresh":
            descriptor = _descriptor(answer, key)
            if descriptor is not None:
                self._metrics.tags.labels("cluster").inc()
                return self._table.remember(key, descriptor, self._clock())
        # "failed" means that whoever was to ask the origin could not: this node's answer is for itself alone
        publishing = answer is None or answer.state == "ask"
        return await self._ask_origin(key, self._resolver if publishing else None)

    async def _ask_origin(self, key: Key, resolver: Resolver | None) -> Resolution:
        found: Descriptor | None = None
        try:
            found = await self._origin.head(*key)
        except OriginNotFound:
            self._table.forget(key)
            self._metrics.tags.labels("missing").inc()
            raise
        except OriginUnavailable as error:
            stale = self._table.outlive(key, self._clock())
            self._metrics.tags.labels("stale" if stale is not None else "failed").inc()
            if stale is None:
                raise
            log.warning("tag.stale", location=str(key[0]), reference=key[1], error=str(error))
            return stale
        except OriginError:
            self._metrics.tags.labels("failed").inc()
            raise
        finally:  # also when cancelled: others may be waiting for this node's word
            if resolver is not None:
                resolver.publish(*key, found)
        self._metrics.tags.labels("origin").inc()
        return self._table.remember(key, found, self._clock())


def _descriptor(answer: Resolved, key: Key) -> Descriptor | None:
    """The supernode's answer, if it can be one."""
    _, reference, kind = key
    try:
        digest = Digest(answer.digest)
    except InvalidDigest:
        log.warning("supernode.invalid_answer", reference=reference, digest=answer.digest[:100])
        return None
    if (isinstance(reference, Digest) and digest != reference) or not 0 < answer.size <= MAX_MANIFEST_SIZE:
        log.warning("supernode.invalid_answer", reference=reference, digest=digest, size=answer.size)
        return None
    return Descriptor(digest, answer.size, answer.media_type, kind)
