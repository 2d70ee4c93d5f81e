"""What the supernode tells Prometheus."""

from __future__ import annotations

import collections
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from supernode.alarms import PIECES, TAG


class SupernodeMetrics(Collector):
    """The supernode's metrics, in a registry of their own.

    Messages are counted in `taken` and `sent`, by their classes: plain numbers, since a metric with its lock costs as
    much as it takes to decode a message.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.peers = Gauge("shoal_supernode_peers", "Connected peers", registry=registry)
        self.swarms = Gauge("shoal_supernode_swarms", "Blobs that some peer has or wants", registry=registry)
        self.leases = Gauge("shoal_supernode_leases", "Origin leases held now", registry=registry)
        self.taken: collections.Counter[type] = collections.Counter()
        self.sent: collections.Counter[type] = collections.Counter()
        self.dropped = Counter(
            "shoal_supernode_dropped_connections_total", "Connections ended", ["reason"], registry=registry
        )
        self.alarms = Counter(
            "shoal_supernode_alarms_total",
            "Contradictions between members, by what they are about",
            ["kind"],
            registry=registry,
        )
        for kind in (TAG, PIECES):
            self.alarms.labels(kind)
        self.decision_seconds = Histogram(
            "shoal_supernode_tick_seconds",
            "Time of one periodic round of decisions",
            registry=registry,
            buckets=(0.0001, 0.001, 0.01, 0.1, 1.0),
        )
        registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The counts of messages, as Prometheus reads them."""
        family = CounterMetricFamily("shoal_supernode_messages", "Control messages", labels=["direction", "kind"])
        for direction, counts in (("in", self.taken), ("out", self.sent)):
            for kind, count in counts.items():
                family.add_metric([direction, kind.__name__], count)
        yield family
