"""What references stand for, for whoever may read them: known here, in the cluster, or at the origin, in this order."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Collection
from typing import Protocol

import structlog

from peer.account import Cause, waiting_for
from peer.origin import OriginDenied, OriginError, OriginNotFound, OriginUnavailable
from proxy.catalogue import Catalogue, KnownTag
from proxy.flight import SingleFlight
from proxy.freshness import MAX_ENTRIES, FreshnessTable, Key, Resolution
from proxy.identity import Identity
from proxy.metrics import ProxyMetrics
from proxy.retry import ANSWER_SECONDS, Limited, Unreachable
from proxy.rights import Rights
from proxy.settings import ProxySettings
from shoal.descriptor import MAX_MANIFEST_SIZE, BlobKind, Descriptor
from shoal.digest import Digest, InvalidDigest
from shoal.recent import Recent
from shoal.reference import Location, Registry, Tag
from shoal.traces import NO_TRACES, Traces
from supernode.protocol import PROVISIONAL_SECONDS, Resolved

log = structlog.get_logger()

STALE_WAIT_SECONDS = 2.5
"""How long the origin has for its answer where the last known one can be given instead: a client has it within 3 s."""

_MAX_PROVISIONAL = 1000

REST_SECONDS = 60.0
"""How long an origin that gave no answer is left alone, as far as last known answers serve."""


class Resolver(Protocol):
    """The cluster's common knowledge (`supernode.client.ControlClient` implements it)."""

    async def resolve(
        self, location: Location, reference: Tag | Digest, kind: str, identity: str, max_age: float
    ) -> Resolved | None:
        """The supernode's answer, or None where none comes in bounded time. `max_age` of it, in seconds."""

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
        """Tell what the origin said to this identity; None where it told nothing, that there is nothing, or refused."""

    def refresh(self, location: Location) -> None:
        """Have the cluster ask the origin anew."""


class OriginHead(Protocol):
    """The origin's own word (`proxy.upstream.UpstreamClient` implements it)."""

    async def head(
        self, location: Location, reference: Tag | Digest, kind: BlobKind, identity: Identity, accept: str = ""
    ) -> Descriptor:
        """What a reference stands for; raises `OriginError`."""

    async def named(self, registry: Registry, name: str) -> Identity | None:
        """Whom `name` stands for on all nodes, nobody or the node, as far as this node can ask as it."""

    def lend(self, location: Location, identity: Identity) -> None:
        """This client may read there, and asks for something: it may be fetched as him."""


class TagResolver:
    """Resolves references for identities, so that a cluster asks the origin once per freshness period."""

    def __init__(
        self,
        settings: ProxySettings,
        resolver: Resolver | None,
        origin: OriginHead,
        catalogue: Catalogue,
        metrics: ProxyMetrics,
        clock: Callable[[], float] = time.monotonic,
        traces: Traces = NO_TRACES,
    ) -> None:
        """`resolver` is None where there is no supernode."""
        self._settings = settings
        self._resolver = resolver
        self._origin = origin
        self._catalogue = catalogue
        self._metrics = metrics
        self._clock = clock
        self._traces = traces
        self._table = FreshnessTable()
        self._rights = Rights(settings.rights_freshness)
        self._missing: Recent[tuple[Key, str], tuple[OriginNotFound, float]] = Recent(MAX_ENTRIES)
        self._silent: Recent[Registry, float] = Recent(MAX_ENTRIES)
        self._flights: SingleFlight[tuple[Key, str], Resolution] = SingleFlight()
        self._provisional: Recent[tuple[Key, str], Identity] = Recent(_MAX_PROVISIONAL)
        """Answers of the cluster that one other node alone has given."""

    def reconfigure(self, settings: ProxySettings) -> None:
        """What is known already is judged by these settings from now on; a yes to a client keeps its time."""
        self._settings = settings
        self._rights.seconds = settings.rights_freshness

    def restore(self) -> None:
        """Take over what the catalogue knew when it was opened: last known answers, to be asked for anew."""
        for known in self._catalogue.tags:
            key = Key(known.location, known.tag, BlobKind.MANIFEST, known.accept)
            self._table.remember(key, known.descriptor, float("-inf"))
        for location, identity in self._catalogue.grants:
            self._rights.grant(location, Identity(identity), self._clock())

    async def resolve(
        self, location: Location, reference: Tag | Digest, kind: BlobKind, identity: Identity, accept: str = ""
    ) -> Resolution:
        """What a reference stands for; raises `OriginError`. Asked for by many at once it is asked for once."""
        resolution = await self._find(Key(location, reference, kind, accept), identity, None)
        self._origin.lend(location, identity)
        return resolution

    async def admit(self, location: Location, known: Descriptor, identity: Identity, *, named: bool) -> Resolution:
        """`known`, which is stored or was named by a manifest, if this identity may have it; raises `OriginError`.

        It may where it may read the repository, and a manifest there names the blob (`named`, or an earlier one), or
        where the origin gives it this identity at this place.
        """
        key = Key(location, known.digest, known.kind)
        is_named = (
            named
            or self._table.last(key) is not None
            or await self._catalogue.named(location, known.digest) is not None
        )
        if is_named and self._rights.are_granted(location, identity, self._clock()):
            stale = False
        else:
            stale = (await self._find(key, identity, known if is_named else None)).stale
        self._origin.lend(location, identity)
        return Resolution(known, stale, named=True)

    def name(self, location: Location, blobs: tuple[Descriptor, ...]) -> None:
        """A manifest of this repository names these blobs."""
        self._catalogue.name(location, blobs)

    def correct(self, location: Location, reference: Tag | Digest, wrong: Descriptor, size: int) -> None:
        """The origin's answer to GET tells another size than `wrong`, which `resolve` had given."""
        for name in {reference, wrong.digest}:
            self._table.correct(Key(location, name, wrong.kind), wrong, size)

    def last_known(self, location: Location, reference: Tag | Digest) -> Digest | None:
        """The digest of what was last known of a reference, for the node's own use."""
        if isinstance(reference, Digest):
            return reference
        last = self._table.last(Key(location, reference, BlobKind.MANIFEST))
        return last.descriptor.digest if last is not None else None

    def known(self) -> list[tuple[Location, Tag, Digest]]:
        """What was last known of all tags, of some by several digests: for clients that take different kinds."""
        found = []
        for key in self._table:
            last = self._table.last(key)
            if last is not None and key.kind is BlobKind.MANIFEST and not isinstance(key.reference, Digest):
                found.append((key.location, key.reference, last.descriptor.digest))
        return found

    def refresh(self, location: Location) -> None:
        """Whatever is asked of this repository next is asked of the origin, on all nodes of the cluster."""
        self.refreshed(location)
        if self._resolver is not None:
            self._resolver.refresh(location)

    def forget(self, location: Location, references: Collection[Tag | Digest]) -> None:
        """This node does not know any more what these references stand for."""
        for key in [key for key in self._table if key.location == location and key.reference in references]:
            self._table.forget(key)
        for reference in references:
            if not isinstance(reference, Digest):
                self._catalogue.forget(location, reference)

    def refreshed(self, location: Location) -> None:
        """What is known of this repository is not fresh any more; it serves while the origin cannot be asked."""
        self._table.age(location)
        self._rights.forget_clients(location)
        for key in [key for key in self._missing if key[0].location == location]:
            del self._missing[key]
        self._silent.pop(location.registry, None)

    def denied(self, location: Location, identity: str) -> None:
        """The origin has told another node that it lets this identity read there no more: it is to say so here too.

        As long as it cannot be asked, this identity gets nothing of what is stored.
        """
        self._rights.revoke(location, identity)
        self._catalogue.revoke(location, identity)

    async def confirm(self, location: Location, reference: Tag | Digest, identity: str) -> None:
        """Publish what the origin says of a manifest, which the cluster wants to hear of this node too.

        Raises `OriginError` and `TimeoutError` when that has been published, too.
        """
        if self._resolver is None:
            return
        known = await self._origin.named(location.registry, identity)
        if known is None:
            self._resolver.publish(location, reference, BlobKind.MANIFEST, identity, None, missing=False)
            return
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._ask_origin(Key(location, reference, BlobKind.MANIFEST), known, self._resolver)

    async def settle(self) -> None:
        """Ask the cluster again for what one node alone has said, while no client waits for it."""
        provisional = list(self._provisional.items())
        self._provisional.clear()
        for (key, name), identity in provisional:
            with contextlib.suppress(OriginError, TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._flights.run((key, name), functools.partial(self._ask, key, identity))

    async def close(self) -> None:
        """Give up the questions underway."""
        await self._flights.close()

    async def _find(self, key: Key, identity: Identity, known: Descriptor | None) -> Resolution:
        """`known`: a digest's descriptor that stands in for the answer where the origin cannot be asked."""
        asked = {"shoal.location": str(key.location), "shoal.reference": key.reference}
        with self._traces.part("tag.resolve", asked) as span:
            found = await self._found(key, identity, known)
            span.set({"shoal.digest": found.descriptor.digest, "shoal.stale": found.stale})
            return found

    async def _found(self, key: Key, identity: Identity, known: Descriptor | None) -> Resolution:
        now = self._clock()
        refusal = self._rights.refusal(key.location, identity, now)
        if refusal is not None:
            raise refusal
        missing, until = self._missing.get((key, identity.key), (None, 0.0))
        if missing is not None and now < until:
            self._metrics.tags.labels("missing").inc()
            raise missing.with_traceback(None)  # it is raised many times, and would grow with each
        if self._rights.are_granted(key.location, identity, now):
            found = self._table.fresh(key, now) or self._table.stale(key, now)
            if found is not None:
                self._metrics.tags.labels("stale" if found.stale else "local").inc()
                return found
        last = self._last(key, identity, known)
        if last is not None and now < self._silent.get(key.location.registry, 0.0):
            self._metrics.tags.labels("stale").inc()
            return last
        try:
            async with asyncio.timeout(ANSWER_SECONDS if last is None else STALE_WAIT_SECONDS):
                return await self._flights.run((key, identity.key), lambda: self._ask(key, identity))
        except TimeoutError:
            error: OriginError = Unreachable(f"{key.location.registry} gave no answer in time")
        except OriginUnavailable as unavailable:
            error = unavailable
        except OriginDenied as denied:
            if identity.is_shared and last is not None:
                error = denied
            else:
                raise
        return self._outlived(key, last, error)

    def _last(self, key: Key, identity: Identity, known: Descriptor | None) -> Resolution | None:
        """The last known answer, if this identity may have it without the origin's saying so again."""
        if not self._rights.are_granted(key.location, identity, self._clock()):
            return None
        return self._table.last(key) or (None if known is None else Resolution(known, stale=True))

    def _outlived(self, key: Key, last: Resolution | None, error: OriginError) -> Resolution:
        """The last known answer after all; raises `error` where there is none."""
        self._leave_alone(key.location.registry, error)
        self._metrics.tags.labels("stale" if last is not None else "failed").inc()
        if last is None:
            raise error
        self._table.outlive(key, self._clock() + REST_SECONDS)
        log.warning("tag.stale", location=str(key.location), reference=key.reference, error=str(error))
        return last

    def _leave_alone(self, registry: Registry, error: Exception) -> None:
        """A registry that gave no answer at all, or wants to be left alone, is not asked while stale answers serve."""
        if isinstance(error, TimeoutError | Unreachable | Limited):
            after = error.after if isinstance(error, Limited) and error.after is not None else REST_SECONDS
            self._silent.put(registry, self._clock() + min(after, REST_SECONDS))

    async def _ask(self, key: Key, identity: Identity) -> Resolution:
        """Ask the cluster where the answer is everybody's, else the origin."""
        location, reference, kind, accept = key
        if self._resolver is None or identity.is_client or accept or kind is BlobKind.BLOB:
            return await self._ask_origin(key, identity, None)
        with waiting_for(Cause.RESOLVE), self._traces.part("supernode.resolve") as span:
            answer = await self._resolver.resolve(location, reference, kind, identity.key, self._freshness(key))
            span.set({"shoal.answer": "none" if answer is None else answer.state})
        if answer is not None and answer.state == "fresh":
            descriptor = _descriptor(answer, key)
            if descriptor is not None:
                self._metrics.tags.labels("cluster").inc()
                if answer.provisional:
                    return self._granted_for_now(key, identity, descriptor)
                return self._granted(key, identity, descriptor)
        if answer is not None and answer.state == "missing":
            text = f"{location.registry} has no {reference} of {location.repository}: another node was told so"
            raise self._lacking(key, identity, OriginNotFound(text))
        # "failed" means that whoever was to ask the origin could not: this node's answer is for itself alone
        publishing = answer is None or answer.state == "ask"
        last = _descriptor(answer, key) if answer is not None and answer.digest else None
        if last is None or self._table.last(key) is not None:
            return await self._ask_origin(key, identity, self._resolver if publishing else None)
        try:
            async with asyncio.timeout(STALE_WAIT_SECONDS):
                return await self._ask_origin(key, identity, self._resolver if publishing else None)
        except (TimeoutError, OriginUnavailable) as error:
            log.warning("tag.stale", location=str(location), reference=reference, error=str(error) or "no answer")
            self._leave_alone(location.registry, error)
            self._granted(key, identity, last, fresh=False)
            self._table.outlive(key, self._clock() + REST_SECONDS)
            return Resolution(last, stale=True)

    async def _ask_origin(self, key: Key, identity: Identity, resolver: Resolver | None) -> Resolution:
        location, reference, kind, accept = key
        found: Descriptor | None = None
        is_missing = is_denied = False
        try:
            found = await self._origin.head(location, reference, kind, identity, accept)
        except OriginNotFound as error:
            is_missing = True
            raise self._lacking(key, identity, error) from None
        except OriginDenied as error:
            is_denied = True
            self._metrics.tags.labels("denied").inc()
            if not identity.is_shared:
                self._rights.refuse(location, identity, error, self._clock())
                if not identity.is_client:
                    self._catalogue.revoke(location, identity.key)
            raise
        finally:  # also when cancelled: others may be waiting for this node's word
            if resolver is not None:
                resolver.publish(location, reference, kind, identity.key, found, missing=is_missing, denied=is_denied)
        self._metrics.tags.labels("origin").inc()
        self._silent.pop(location.registry, None)
        return self._granted(key, identity, found)

    def _granted(self, key: Key, identity: Identity, descriptor: Descriptor, *, fresh: bool = True) -> Resolution:
        """The origin gives this to this identity, or did (not `fresh`), and so lets it read the repository."""
        now = self._clock()
        location = key.location
        if self._rights.grant(location, identity, now) and not identity.is_client:
            self._catalogue.grant(location, identity.key)
        self._catalogue.name(location, [descriptor])
        self._missing.pop((key, identity.key), None)
        last = self._table.last(key)
        if not isinstance(key.reference, Digest) and (last is None or last.descriptor != descriptor):
            self._catalogue.remember(KnownTag(location, key.reference, key.accept, descriptor))
        self._table.remember(Key(location, descriptor.digest, key.kind), descriptor, float("inf"))
        if isinstance(key.reference, Digest):
            return Resolution(descriptor)
        return self._table.remember(key, descriptor, now + self._freshness(key) if fresh else float("-inf"))

    def _granted_for_now(self, key: Key, identity: Identity, descriptor: Descriptor) -> Resolution:
        """One other node says that the origin gives this. Nothing of it outlives a restart, or the time in which a
        second node has its answer."""
        now = self._clock()
        until = now + min(self._freshness(key), PROVISIONAL_SECONDS)
        self._rights.grant_for_now(key.location, identity, now, PROVISIONAL_SECONDS)
        self._provisional.put((key, identity.key), identity)
        if not isinstance(key.reference, Digest):
            by_digest = Key(key.location, descriptor.digest, key.kind)
            if self._table.last(by_digest) is None:
                self._table.remember(by_digest, descriptor, now + PROVISIONAL_SECONDS)
        return self._table.remember(key, descriptor, until)

    def _lacking(self, key: Key, identity: Identity, error: OriginNotFound) -> OriginNotFound:
        """The origin has nothing there for this identity; a client is told so too of what he may not know of."""
        self._metrics.tags.labels("missing").inc()
        if not identity.is_client:
            self._table.forget(key)
            if not isinstance(key.reference, Digest):
                self._catalogue.forget(key.location, key.reference)
        self._silent.pop(key.location.registry, None)
        self._missing.put((key, identity.key), (error, self._clock() + self._freshness(key)))
        return error

    def _freshness(self, key: Key) -> float:
        """Seconds for which an answer is good; what a digest stands for does not change, but may come to be there."""
        if isinstance(key.reference, Digest):
            return self._settings.tag_freshness
        return self._settings.freshness_of(key.location, key.reference)


def _descriptor(answer: Resolved, key: Key) -> Descriptor | None:
    """The supernode's answer, if it can be one."""
    reference = key.reference
    try:
        digest = Digest(answer.digest)
    except InvalidDigest:
        log.warning("supernode.invalid_answer", reference=reference, digest=answer.digest[:100])
        return None
    if (isinstance(reference, Digest) and digest != reference) or not 0 < answer.size <= MAX_MANIFEST_SIZE:
        log.warning("supernode.invalid_answer", reference=reference, digest=digest, size=answer.size)
        return None
    return Descriptor(digest, answer.size, answer.media_type, key.kind)
