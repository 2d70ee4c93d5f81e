"""What the supernode tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class SupernodeMetrics:
    """The supernode's metrics, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.peers = Gauge("shoal_supernode_peers", "Connected peers", registry=registry)
        self.swarms = Gauge("shoal_supernode_swarms", "Blobs that some peer has or wants", registry=registry)
        self.leases = Gauge("shoal_supernode_leases", "Origin leases held now", registry=registry)
        self.messages = Counter(
            "shoal_supernode_messages_total", "Control messages", ["direction", "kind"], registry=registry
        )
        self.dropped = Counter(
            "shoal_supernode_dropped_connections_total", "Connections ended", ["reason"], registry=registry
        )
        self.decision_seconds = Histogram(
            "shoal_supernode_tick_seconds",
            "Time of one periodic round of decisions",
            registry=registry,
            buckets=(0.0001, 0.001, 0.01, 0.1, 1.0),
        )
