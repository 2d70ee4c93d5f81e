"""What nodes have reported: the last word of each, and sums that go on counting when a node has gone. No I/O, no clock.

A report is one member's word on itself. It decides nothing; it is shown to people.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from shoal.recent import Recent
from supernode.protocol import PeerId
from supernode.report import HeldImage, ManifestParts, Report

COUNTED = ("peers_in", "peers_out", "served_store", "served_peers", "served_origin", "requests")
"""The fields of a report that are counted since its node began, besides what came from each registry."""
ORIGIN_IN = "origin_in"
"""The name in sums of all bytes that came from origins."""

_MOST_EACH_SECOND = 25 << 30
"""By so much a figure grows in a second at the most, two links of 100 Gbit/s: one absurd report is not to spoil the
cluster's sums for good."""
_LEAST_SECONDS = 0.4
"""Between two reports of which the difference is taken for a rate."""
_MAX_GONE, _MAX_REGISTRIES, _MAX_MANIFESTS = 4096, 256, 128

Figures = Mapping[str, int]


@dataclass(slots=True)
class Known:
    """One node as it has reported itself. Times are in seconds of the supernode's monotonic clock."""

    report: Report
    at: float
    """When the last report came."""
    images: tuple[HeldImage, ...] | None = None
    """None: it has not told of any yet."""
    rates: dict[str, float] = field(default_factory=dict)
    """Bytes/s and requests/s of the time between its last reports."""
    origin_rates: dict[str, float] = field(default_factory=dict)
    """Bytes/s by registry."""
    before: Mapping[str, int] = field(default_factory=dict)
    before_at: float = 0.0
    """The figures from which the next rates are taken, and when they were reported."""


class ReportBook:
    """Bounded by the number of peers, and by `_MAX_GONE` of those that have gone lately."""

    def __init__(self, now: float) -> None:
        self._began_at = now
        self._known: dict[PeerId, Known] = {}
        self._gone: Recent[PeerId, dict[str, int]] = Recent(_MAX_GONE)
        """What was counted of nodes when they went: some of them come back."""
        self.totals: dict[str, int] = dict.fromkeys((ORIGIN_IN, *COUNTED), 0)
        """What all nodes have counted since this supernode began."""
        self.origins: Recent[str, int] = Recent(_MAX_REGISTRIES)
        """Bytes that came from each registry in that time."""
        self.manifests: Recent[str, ManifestParts] = Recent(_MAX_MANIFESTS)
        """What manifests name, by digest, as the last node said that was asked for it."""

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[PeerId]:
        return iter(self._known)

    def get(self, peer: PeerId) -> Known | None:
        """What a node that is here has reported, else None."""
        return self._known.get(peer)

    def take(self, peer: PeerId, report: Report, now: float, manifests: Collection[str] = ()) -> None:
        """A node that is here reports. `manifests`: those of which it was asked what they name."""
        figures = _figures(report)
        known = self._known.get(peer)
        if known is None:
            before = self._gone.pop(peer, None)
            if before is None:  # what it did before this supernode began is not of its time
                before = {} if report.uptime <= now - self._began_at else figures
            self._count(_grown(before, figures, report.uptime))
            known = self._known[peer] = Known(report, now, before=figures, before_at=now)
        else:
            self._count(_grown(_figures(known.report), figures, now - known.at))
        known.report, known.at = msgspec.structs.replace(report, images=None, manifests=[]), now
        if report.images is not None:
            known.images = tuple(report.images)
        for manifest in report.manifests:
            if manifest.digest in manifests:
                self.manifests.put(manifest.digest, manifest)
        if (elapsed := now - known.before_at) >= _LEAST_SECONDS:
            grown = _grown(known.before, figures, elapsed)
            known.rates = {name: grown.get(name, 0) / elapsed for name in self.totals}
            known.origin_rates = {name: count / elapsed for name, count in grown.items() if name not in self.totals}
            known.before, known.before_at = figures, now

    def leave(self, peer: PeerId) -> None:
        """A node is gone: its figures stay in the sums."""
        known = self._known.pop(peer, None)
        if known is not None:
            self._gone.put(peer, _figures(known.report))

    @property
    def tell_images(self) -> bool:
        """Whether all nodes have told which images they have."""
        return all(known.images is not None for known in self._known.values())

    def rates(self) -> dict[str, float]:
        """Bytes/s and requests/s of all nodes together."""
        return {name: sum(known.rates.get(name, 0.0) for known in self._known.values()) for name in self.totals}

    def origin_rates(self) -> dict[str, float]:
        """Bytes/s by registry, of all nodes together."""
        rates: dict[str, float] = {}
        for known in self._known.values():
            for registry, rate in known.origin_rates.items():
                rates[registry] = rates.get(registry, 0.0) + rate
        return rates

    def _count(self, grown: Figures) -> None:
        for name, count in grown.items():
            if name in self.totals:
                self.totals[name] += count
            elif count or name in self.origins:
                self.origins.put(name, self.origins.get(name, 0) + count)


def saved(totals: Figures) -> int:
    """Bytes that clients were given and that did not leave an origin for it."""
    return max(0, served(totals) - totals[ORIGIN_IN])


def served(totals: Figures) -> int:
    """Bytes that clients were given."""
    return totals["served_store"] + totals["served_peers"] + totals["served_origin"]


def hit_ratio(totals: Figures) -> float | None:
    """The part of what clients were given that did not leave an origin for it; None where there is nothing.

    What came from an origin ahead of its client's request is given from the store, and did leave the origin.
    """
    given = served(totals)
    return None if not given else saved(totals) / given


def figures_of(report: Report) -> dict[str, int]:
    """What a report counts, without its registries."""
    figures = _figures(report)
    return {name: figures[name] for name in (ORIGIN_IN, *COUNTED)}


def _figures(report: Report) -> dict[str, int]:
    figures = {name: getattr(report, name) for name in COUNTED}
    figures[ORIGIN_IN] = sum(origin.bytes for origin in report.origins)
    for origin in report.origins:
        if origin.registry not in figures:
            figures[origin.registry] = origin.bytes
    return figures


def _grown(before: Figures, after: Figures, seconds: float) -> dict[str, int]:
    """By how much each figure has grown; one that has shrunk is taken to have begun anew."""
    most = int(_MOST_EACH_SECOND * (max(seconds, 0.0) + 1.0))
    grown = {}
    for name, count in after.items():
        since = before.get(name, 0)
        grown[name] = min(count - since if count >= since else count, most)
    return grown
