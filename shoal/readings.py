"""Metrics whose numbers are kept elsewhere as plain ones, and looked at when Prometheus asks.

A counter of the client library takes a lock each time that it counts, which is too much where messages and pieces are
counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

Sample = tuple[Sequence[str], float]
"""The values of a metric's labels, and its number."""

Family = CounterMetricFamily | GaugeMetricFamily


class Reading(Collector):
    """One metric, a counter or a gauge, of which `read` gives all numbers."""

    def __init__(
        self,
        kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        meaning: str,
        labels: Sequence[str],
        read: Callable[[], Iterable[Sample]],
        registry: CollectorRegistry,
    ) -> None:
        """A counter's name stands here without its `_total`."""
        self._kind = kind
        self._name = name
        self._meaning = meaning
        self._labels = labels
        self._read = read
        registry.register(self)

    def describe(self) -> Iterator[Family]:
        """The metric without its numbers."""
        yield self._kind(self._name, self._meaning, labels=self._labels)

    def collect(self) -> Iterator[Family]:
        """The metric, as Prometheus reads it."""
        family = self._kind(self._name, self._meaning, labels=self._labels)
        for values, number in self._read():
            family.add_metric(values, number)
        yield family
