"""What a peer tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shoal.limits import Traffic


class LimitMetrics:
    """What a peer tells of its limits."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._limits = Gauge(
            "shoal_limit_bytes_per_second",
            "What the node lets through at most, by what is limited; 0: no limit",
            ["traffic"],
            registry=registry,
        )
        self._waits = Counter(
            "shoal_limit_wait_seconds",
            "Seconds for which transfers waited for a limit, added up over all of them",
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
    """A peer's metrics, in a registry of their own.

    `bytes`: `in` is what came from origins or from peers, `out` what went to peers.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.bytes = Counter(
            "shoal_bytes", "Bytes of blobs by where they came from", ["source", "direction"], registry=registry
        )
        for source, direction in (("origin", "in"), ("peer", "in"), ("peer", "out")):
            self.bytes.labels(source, direction)
        self.pieces = Counter("shoal_pieces", "Pieces received by outcome", ["outcome"], registry=registry)
        for outcome in ("verified", "corrupt", "duplicate"):
            self.pieces.labels(outcome)
        self.requests = Counter(
            "shoal_piece_requests", "Requests by neighbours by answer", ["answer"], registry=registry
        )
        for answer in ("served", "busy", "absent"):
            self.requests.labels(answer)
        self.piece_seconds = Histogram(
            "shoal_piece_seconds",
            "From a request for a piece to its last byte",
            registry=registry,
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
        )
        self.downloads = Gauge("shoal_downloads", "Blobs on their way", registry=registry)
        self.neighbours = Gauge("shoal_neighbours", "Connected peers", registry=registry)
        self.upload_limit = Gauge(
            "shoal_upload_limit_bytes", "Bytes/s at which uploads are let go; 0: not held back", registry=registry
        )
        self.streams = Gauge("shoal_origin_streams", "Streams from origins now", registry=registry)
        self.connected = Gauge("shoal_supernode_connected", "1 while the supernode is reached", registry=registry)
        self.blobs = Gauge("shoal_stored_blobs", "Complete blobs that this node holds", registry=registry)
        self.store_writable = Gauge(
            "shoal_store_writable", "1 while the store takes what comes; else blobs pass by", registry=registry
        )
        self.passed = Counter(
            "shoal_blobs_passed",
            "Blobs that were passed on without being kept, by what was in the way",
            ["reason"],
            registry=registry,
        )
        for reason in ("full", "failing", "large", "crowded"):
            self.passed.labels(reason)
        self.ended = Counter("shoal_downloads_ended", "Downloads by outcome", ["outcome"], registry=registry)

    def received(self) -> dict[str, int]:
        """Bytes of blobs that came, by source: `origin` or `peer`."""
        samples = [sample for metric in self.bytes.collect() for sample in metric.samples]
        return {
            sample.labels["source"]: int(sample.value)
            for sample in samples
            if sample.labels["direction"] == "in" and sample.name.endswith("_total")
        }
