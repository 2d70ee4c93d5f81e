"""What the proxy tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class ProxyMetrics:
    """The proxy's metrics, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.request_seconds = Histogram(
            "shoal_proxy_request_seconds",
            "From a client's request to the end of the response",
            ["route", "status"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.first_byte_seconds = Histogram(
            "shoal_proxy_first_byte_seconds",
            "From a client's request to the first byte of the body",
            ["route"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.sent_bytes = Counter(
            "shoal_proxy_sent_bytes", "Bytes of blobs and manifests sent to clients", ["source"], registry=registry
        )
        for source in ("store", "download"):
            self.sent_bytes.labels(source)
        self.tags = Counter(
            "shoal_proxy_tags",
            "Tags (and digests of unknown size) resolved, by who knew",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("local", "cluster", "origin", "stale", "missing", "failed"):
            self.tags.labels(outcome)
        self.refused = Counter(
            "shoal_proxy_refused_connections", "Connections beyond the number that clients may have", registry=registry
        )
        self.cut = Counter("shoal_proxy_cut_responses", "Bodies that could not be finished", registry=registry)
