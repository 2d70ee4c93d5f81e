"""What the supernode tells Prometheus."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from shoal.readings import Reading, Sample
from supernode.alarms import PIECES, TAG
from supernode.tally import Tally
from supernode.tracker import Tracker

DROPPED = ("not_reading", "not_a_member", "protocol", "silent", "no_place", "lost", "fault")
"""Why connections of peers are ended."""


class SupernodeMetrics:
    """The supernode's metrics, in a registry of their own.

    Messages are counted in `taken` and `sent`, by their classes: plain numbers, since a metric with its lock costs as
    much as it takes to decode a message.
    """

    def __init__(
        self, registry: CollectorRegistry, tracker: Tracker, ends: Callable[[], Mapping[str, float]] = dict
    ) -> None:
        """`ends`: when the cluster's certificates end, in seconds since the epoch."""
        self._gauges(registry, tracker)
        self._leases(registry, tracker.tally)
        self.taken: collections.Counter[type] = collections.Counter()
        self.sent: collections.Counter[type] = collections.Counter()
        Reading(
            CounterMetricFamily,
            "shoal_supernode_messages",
            "Control messages from and to peers, by kind.",
            ["direction", "kind"],
            self._messages,
            registry,
        )
        Reading(
            CounterMetricFamily,
            "shoal_supernode_tag_questions",
            "Questions of peers what a tag stands for, by the answer: it was known, the peer was to ask the origin, "
            "the origin has nothing, or nobody could tell.",
            ["answer"],
            lambda: (((answer,), count) for answer, count in tracker.tally.answers.items()),
            registry,
        )
        self.dropped = Counter(
            "shoal_supernode_dropped_connections",
            "Connections of peers, or of who wanted to be one, that the supernode has ended, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in DROPPED:
            self.dropped.labels(reason)
        self.alarms = Counter(
            "shoal_supernode_alarms",
            "Contradictions between members, by what they are about.",
            ["kind"],
            registry=registry,
        )
        for kind in (TAG, PIECES):
            self.alarms.labels(kind)
        self.decision_seconds = Histogram(
            "shoal_supernode_tick_seconds",
            "Time of one periodic round of decisions.",
            registry=registry,
            buckets=(0.0001, 0.001, 0.01, 0.1, 1.0),
        )
        Reading(
            GaugeMetricFamily,
            "shoal_supernode_certificate_expiry_timestamp_seconds",
            "When the supernode's certificate, or the cluster's authority, ends.",
            ["certificate"],
            lambda: (((name,), end) for name, end in ends().items()),
            registry,
        )

    @staticmethod
    def _gauges(registry: CollectorRegistry, tracker: Tracker) -> None:
        for name, meaning, number in (
            ("peers", "Peers that are connected.", lambda: tracker.peers),
            ("swarms", "Blobs that some peer has or wants.", lambda: len(tracker.swarms)),
            (
                "seedless_swarms",
                "Blobs that some peer wants, that no peer has as a whole, and of which no origin gives anything now.",
                lambda: tracker.seedless,
            ),
            ("leases", "Leases that peers hold now, by which they fetch from origins.", lambda: tracker.leases),
        ):
            Gauge(f"shoal_supernode_{name}", meaning, registry=registry).set_function(number)

    @staticmethod
    def _leases(registry: CollectorRegistry, tally: Tally) -> None:
        for name, meaning, number in (
            ("granted", "Leases that were granted to peers.", lambda: tally.granted),
            ("revoked", "Leases that were taken back, since they did not move.", lambda: tally.revoked),
        ):

            def read(number: Callable[[], int] = number) -> Iterator[Sample]:
                yield (), number()

            Reading(CounterMetricFamily, f"shoal_supernode_leases_{name}", meaning, [], read, registry)
        Reading(
            CounterMetricFamily,
            "shoal_supernode_origin_bytes",
            "Bytes that peers have fetched from origins by leases: pieces that no peer had, and pieces again that some "
            "peer had or had fetched before.",
            ["fetch"],
            lambda: ((("first",), tally.first_bytes), (("again",), tally.again_bytes)),
            registry,
        )

    def _messages(self) -> Iterator[Sample]:
        for direction, counts in (("in", self.taken), ("out", self.sent)):
            for kind, count in counts.items():
                yield (direction, kind.__name__), count
