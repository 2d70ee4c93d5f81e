"""What the proxy tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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
        self.connects = Counter(
            "shoal_proxy_connects",
            "CONNECT requests by what became of them; `untrusted`: opened, and the client did not take the certificate",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("opened", "tunnelled", "refused", "failed", "untrusted"):
            self.connects.labels(outcome)
        self.tunnel_bytes = Counter(
            "shoal_proxy_tunnel_bytes",
            "Bytes through tunnels: up to hosts, down to clients",
            ["direction"],
            registry=registry,
        )
        self.admission = Counter(
            "shoal_proxy_admission",
            "Requests to which an admission rule applied: allow, deny, or would_deny in dry-run mode",
            ["rule", "verdict"],
            registry=registry,
        )
        self.cut = Counter("shoal_proxy_cut_responses", "Bodies that could not be finished", registry=registry)
        self.rate_limit = Gauge(
            "shoal_upstream_rate_limit",
            "Requests that an upstream allows in its window",
            ["registry"],
            registry=registry,
        )
        self.rate_limit_remaining = Gauge(
            "shoal_upstream_rate_limit_remaining",
            "Requests that an upstream still allows",
            ["registry"],
            registry=registry,
        )
        self.limited = Counter(
            "shoal_upstream_limited",
            "Answers of 429, after which an upstream is left alone",
            ["registry"],
            registry=registry,
        )
