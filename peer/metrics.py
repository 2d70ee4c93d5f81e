"""What a peer tells Prometheus."""

from __future__ import annotations

import time
from collections import Counter as Numbers
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily

from peer import wire
from peer.errors import DigestMismatch, DownloadFailed, Stopping, Unwanted
from peer.eviction import Reason
from peer.figures import StoreFigures
from peer.origin import OriginDenied, OriginNotFound, OriginUnavailable
from peer.tally import Tally
from shoal.limits import Traffic
from shoal.readings import Reading, Sample

_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (DigestMismatch, "mismatch"),
    (Stopping, "stopping"),
    (Unwanted, "unwanted"),
    (OriginDenied, "denied"),
    (OriginNotFound, "missing"),
    (OriginUnavailable, "unavailable"),
    (DownloadFailed, "failed"),
)
"""The outcomes of downloads that fail; the first kind that fits counts."""

_ANSWERS: Mapping[type, str] = {wire.Busy: "busy", wire.Absent: "absent"}

STALL_SECONDS = 1.0
"""A client that waits so long for bytes of a blob on its way has stalled."""


class LimitMetrics:
    """What a peer tells of its limits."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._limits = Gauge(
            "shoal_limit_bytes_per_second",
            "Rate that the node lets through at most, by what is limited; 0 where there is no limit.",
            ["traffic"],
            registry=registry,
        )
        self._waits = Counter(
            "shoal_limit_wait_seconds",
            "Time for which transfers waited for a limit, added up over all of them.",
            ["traffic"],
            registry=registry,
        )
        for traffic in Traffic:
            self._limits.labels(traffic)
            self._waits.labels(traffic)

    def limited(self, traffic: Traffic, rate: float) -> None:
        """A limit in bytes/s; 0: none."""
        self._limits.labels(traffic).set(rate)

    def waited(self, traffic: Traffic, seconds: float) -> None:
        """Somebody has waited for a limit."""
        self._waits.labels(traffic).inc(seconds)


class PeerMetrics:
    """A peer's metrics, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry, tally: Tally) -> None:
        """`tally`: what is told of bytes."""
        Reading(
            CounterMetricFamily,
            "shoal_download_bytes",
            "Bytes of blobs that came to this node, from origins or from other peers.",
            ["source"],
            lambda: _each(tally.received),
            registry,
        )
        Reading(
            CounterMetricFamily,
            "shoal_upload_bytes",
            "Bytes of blobs that this node has sent to other peers.",
            [],
            lambda: [((), tally.peers_out)],
            registry,
        )
        self.pieces = Counter(
            "shoal_pieces",
            "Pieces that came from other peers: they were right, they did not match their digest, or they were not "
            "wanted any more.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("verified", "corrupt", "duplicate"):
            self.pieces.labels(outcome)
        self.answers: Numbers[str] = Numbers(served=0, busy=0, absent=0)
        Reading(
            CounterMetricFamily,
            "shoal_piece_requests",
            "Requests of other peers for pieces, by the answer that they got.",
            ["answer"],
            lambda: _each(self.answers),
            registry,
        )
        self.piece_seconds = Histogram(
            "shoal_piece_seconds",
            "Time from a request for a piece to its last byte.",
            registry=registry,
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
        )
        self.downloads = Gauge("shoal_downloads", "Blobs that are on their way to this node.", registry=registry)
        self.ended = Counter(
            "shoal_downloads_ended", "Downloads of blobs that have ended, by outcome.", ["outcome"], registry=registry
        )
        for outcome in ("complete", *(word for _, word in _FAILURES)):
            self.ended.labels(outcome)
        self.stalls = Counter(
            "shoal_stalls",
            "Waits of a second or more in which a client got no byte of a blob that was on its way.",
            registry=registry,
        )
        self.stalled_seconds = Counter("shoal_stalled_seconds", "Time that these waits took in all.", registry=registry)
        self.neighbours = Gauge("shoal_neighbours", "Peers that this one is connected to.", registry=registry)
        self.refusals: Mapping[tuple[str, str], int] = {}
        """Handshakes that failed, by who began them and why; the engine puts the neighbours' own book here."""
        Reading(
            CounterMetricFamily,
            "shoal_refused_handshakes",
            "Connections between peers that ended before both had said who they are, by who began them and why.",
            ["direction", "reason"],
            lambda: self.refusals.items(),
            registry,
        )
        self.upload_pace = Gauge(
            "shoal_upload_pace_bytes_per_second",
            "Rate at which this node lets its uploads go, so that its link is never quite full; 0 where it holds "
            "nothing back.",
            registry=registry,
        )
        self.streams = Gauge("shoal_origin_streams", "Streams from origins that are open now.", registry=registry)
        self._store(registry)

    def _store(self, registry: CollectorRegistry) -> None:
        self.figures = StoreFigures()
        """What `peer.upkeep` measured last."""
        self.blobs = Gauge("shoal_store_blobs", "Whole blobs that this node holds.", registry=registry)
        for name, field, meaning in (
            ("size", "size", "Bytes that the store holds, with what blobs on their way will have when they are whole."),
            ("limit", "limit", "Bytes above which the store gives up what was least recently used."),
            ("pinned", "pinned", "Bytes of stored blobs that pins keep."),
            ("quarantined", "quarantined", "Bytes of files that were put aside because they were damaged."),
            ("disk_size", "disk_size", "Bytes of the disk on which the store lies."),
            ("disk_free", "disk_free", "Bytes of that disk that are free for this node's user."),
            ("disk_reserve", "reserve", "Bytes of that disk that the store leaves free."),
        ):
            gauge = Gauge(f"shoal_store_{name}_bytes", meaning, registry=registry)
            gauge.set_function(lambda field=field: float(getattr(self.figures, field)))  # type: ignore[misc]
        self.evicted: Mapping[Reason, int] = {}
        """Bytes that were given up, by reason; the engine puts the store's own book here."""
        Reading(
            CounterMetricFamily,
            "shoal_store_evicted_bytes",
            "Bytes that the store has given up, by what they were: images, partial blobs, blobs that no image needs, "
            "or files in quarantine.",
            ["reason"],
            lambda: _each(self.evicted),
            registry,
        )
        self.writable = Gauge(
            "shoal_store_writable", "1 while the store takes what comes, 0 while blobs pass it by.", registry=registry
        )
        self.passed = Counter(
            "shoal_blobs_passed",
            "Blobs that were given to clients without being kept, by what was in the way.",
            ["reason"],
            registry=registry,
        )
        for reason in ("full", "failing", "large", "crowded"):
            self.passed.labels(reason)
        self.swept_at = Gauge(
            "shoal_sweep_last_success_timestamp_seconds",
            "When the store was last found or brought within its limits.",
            registry=registry,
        )
        self.scrubbed = Counter(
            "shoal_scrub_blobs",
            "Stored blobs that were hashed again, by what was found.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("right", "damaged", "unreadable"):
            self.scrubbed.labels(outcome)
        self.scrubbed_at = Gauge(
            "shoal_scrub_last_success_timestamp_seconds",
            "When a stored blob was last hashed again and found to be right; 0 before the first one.",
            registry=registry,
        )
        oldest = Gauge(
            "shoal_scrub_oldest_check_timestamp_seconds",
            "When that stored blob was hashed whose turn to be hashed again comes next; 0 while nothing is stored.",
            registry=registry,
        )
        oldest.set_function(lambda: self.figures.oldest_check)
        self.scrub_period = Gauge(
            "shoal_scrub_period_seconds",
            "Time within which each stored blob is to be hashed again; 0 where that is switched off.",
            registry=registry,
        )

    def answered(self, message: wire.Kinds) -> None:
        """Another peer is told this."""
        answer = _ANSWERS.get(type(message))
        if answer is not None:
            self.answers[answer] += 1

    def failed(self, error: Exception) -> None:
        """A download has failed."""
        self.ended.labels(next((word for kind, word in _FAILURES if isinstance(error, kind)), "failed")).inc()

    def waited(self, seconds: float) -> None:
        """A client has waited so long for bytes of a blob on its way."""
        if seconds >= STALL_SECONDS:
            self.stalls.inc()
            self.stalled_seconds.inc(seconds)

    def scrubbed_one(self, outcome: str) -> None:
        """A stored blob was hashed again: it is `right`, `damaged` or `unreadable`."""
        self.scrubbed.labels(outcome).inc()
        if outcome == "right":
            self.scrubbed_at.set(time.time())


class ContactMetrics:
    """A node's metrics of its supernode, where it has one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connected = Gauge(
            "shoal_supernode_connected",
            "1 while this node reaches its supernode; a node without one does not say.",
            registry=registry,
        )
        self.heard_at = Gauge(
            "shoal_supernode_last_contact_timestamp_seconds",
            "When this node last heard its supernode; 0 before the first time.",
            registry=registry,
        )


def _each(numbers: Mapping[Any, float]) -> Iterator[Sample]:
    return (((label,), number) for label, number in numbers.items())
