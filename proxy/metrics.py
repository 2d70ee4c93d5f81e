"""What the proxy tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from peer.sink import Source
from peer.tally import Tally
from shoal.readings import Reading
from shoal.reference import Registry

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_SOURCES: tuple[Source, ...] = ("store", "peer", "origin")
_OTHER = "other"
"""In place of the names of registries that the configuration does not name: those come from clients, and are many."""


class ProxyMetrics:
    """The proxy's metrics, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry, upstreams: Collection[str] = ()) -> None:
        """`upstreams`: the registries that the configuration names."""
        self._upstreams: frozenset[str] = frozenset()
        self.request_seconds = Histogram(
            "shoal_proxy_request_seconds",
            "Time from a client's request to the end of the response. Status 499 is a client that left before.",
            ["route", "status"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.first_byte_seconds = Histogram(
            "shoal_proxy_first_byte_seconds",
            "Time from a client's request to the first byte of the body.",
            ["route"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.tally = Tally()
        """What is told of bytes; the proxy puts its own here."""
        Reading(
            CounterMetricFamily,
            "shoal_proxy_sent_bytes",
            "Bytes of blobs and manifests that were sent to clients, by where they came from for this response: the "
            "store, another peer or the origin; or of a registry's own answer that was relayed.",
            ["source"],
            lambda: [
                *(((source,), sent) for source, sent in self.tally.served.items()),
                (("relay",), self.tally.relayed),
            ],
            registry,
        )
        self.served = Counter(
            "shoal_proxy_served_responses",
            "Responses with a blob, a part of it or a manifest, by where most of their bytes came from.",
            ["route", "source"],
            registry=registry,
        )
        for source in _SOURCES:
            for route in ("blob", "manifest"):
                self.served.labels(route, source)
        self.served_at = Gauge(
            "shoal_proxy_last_served_timestamp_seconds",
            "When a client was last sent a blob or a manifest to its end; 0 before the first time.",
            registry=registry,
        )
        self.errors = Counter(
            "shoal_proxy_errors", "Requests that were answered with an error, by its code.", ["code"], registry=registry
        )
        for code in (
            "BLOB_UNKNOWN",
            "DENIED",
            "MANIFEST_UNKNOWN",
            "NAME_UNKNOWN",
            "UNAUTHORIZED",
            "UNAVAILABLE",
            "UNKNOWN",
        ):
            self.errors.labels(code)
        self.cut = Counter(
            "shoal_proxy_cut_responses",
            "Responses that could not be finished and were cut, so that the client sees an error.",
            registry=registry,
        )
        self.refused = Counter(
            "shoal_proxy_refused_connections",
            "Connections that were refused because clients had as many as they may have.",
            registry=registry,
        )
        self.tags = Counter(
            "shoal_proxy_tags",
            "Questions what a tag, or a digest of unknown size, stands for, by who answered or what the answer was.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("local", "cluster", "origin", "stale", "missing", "denied", "failed"):
            self.tags.labels(outcome)
        self.admission = Counter(
            "shoal_proxy_admission",
            "Requests to which an admission rule applied, by verdict: allow, deny, or would_deny in dry-run mode.",
            ["rule", "verdict"],
            registry=registry,
        )
        self.connects = Counter(
            "shoal_proxy_connects",
            "CONNECT requests by what became of them. Of untrusted ones the client did not take the certificate.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("opened", "tunnelled", "refused", "failed", "untrusted"):
            self.connects.labels(outcome)
        self.tunnel_bytes = Counter(
            "shoal_proxy_tunnel_bytes",
            "Bytes that went through tunnels, up to hosts and down to clients.",
            ["direction"],
            registry=registry,
        )
        for direction in ("up", "down"):
            self.tunnel_bytes.labels(direction)
        self._of_upstreams(registry)
        self.reconfigure(upstreams)

    def reconfigure(self, upstreams: Collection[str]) -> None:
        """These registries the configuration names from now on."""
        self._upstreams = frozenset(upstreams)
        for name in self._upstreams:
            for metric in (self.upstream_bytes, self.answered_at, self.limited):
                metric.labels(name)
            for outcome in ("answered", "denied", "missing", "limited", "unavailable"):
                self.upstream_requests.labels(name, outcome)

    def _of_upstreams(self, registry: CollectorRegistry) -> None:
        self.upstream_bytes = Counter(
            "shoal_upstream_received_bytes",
            "Bytes of blobs and manifests that came from an upstream or its mirrors.",
            ["registry"],
            registry=registry,
        )
        self.upstream_requests = Counter(
            "shoal_upstream_requests",
            "Requests to an upstream, signing in and redirects included, by outcome.",
            ["registry", "outcome"],
            registry=registry,
        )
        self.answered_at = Gauge(
            "shoal_upstream_last_success_timestamp_seconds",
            "When an upstream, or a mirror of it, last answered well; 0 before the first time.",
            ["registry"],
            registry=registry,
        )
        self.limited = Counter(
            "shoal_upstream_limited",
            "Answers of 429, after which an upstream is left alone for a while.",
            ["registry"],
            registry=registry,
        )
        self.rate_limit = Gauge(
            "shoal_upstream_rate_limit_requests",
            "Requests that an upstream allows in its window, as it said last.",
            ["registry"],
            registry=registry,
        )
        self.rate_limit_remaining = Gauge(
            "shoal_upstream_rate_limit_remaining_requests",
            "Requests that an upstream still allows in its window, as it said last.",
            ["registry"],
            registry=registry,
        )

    def names(self, registry: Registry) -> bool:
        """Whether the configuration names a registry, so that there are metrics of it alone."""
        return registry in self._upstreams

    def upstream(self, registry: Registry) -> str:
        """What stands for a registry in labels."""
        return registry if registry in self._upstreams else _OTHER


def certificate_metric(ends: Callable[[], Mapping[str, float]], registry: CollectorRegistry) -> None:
    """Tell when certificates end, by what they are for, in seconds since the epoch."""
    Reading(
        GaugeMetricFamily,
        "shoal_certificate_expiry_timestamp_seconds",
        "When a certificate ends: that of this node in the cluster, the cluster's authority, or the authority that "
        "clients of the forward proxy trust.",
        ["certificate"],
        lambda: (((name,), end) for name, end in ends().items()),
        registry,
    )
