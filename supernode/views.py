"""The cluster as people are shown it: JSON made of what the tracker knows for sure and of what nodes say of themselves.

`docs/supernode-api.yaml` describes the shapes, which others rely on. Nothing in here changes anything.
"""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain

from shoal.descriptor import BlobKey
from shoal.digest import Digest, InvalidDigest
from shoal.pieces import PieceLayout, from_bitfield, to_bitfield
from shoal.reference import Registry
from supernode.leases import Lease
from supernode.protocol import PeerId
from supernode.report import HeldImage, Part, Report, WatchedBlob
from supernode.reports import Known, figures_of, hit_ratio, saved, served
from supernode.roster import Node, Roster
from supernode.swarm import Member, Swarm
from supernode.telemetry import Telemetry
from supernode.tracker import Tracker

_MAX_SWARMS = 500
"""Swarms of one list: those that move come first."""
_MAX_DOWNLOADS = 100
"""Blobs on their way to one node that are listed."""
_MAX_PLACES = 8
"""Repositories of one swarm that are named."""

Picture = dict[str, object]

ORDERS: Mapping[str, Callable[[Report], int] | None] = {
    "name": None,
    "served": lambda report: report.served_store + report.served_peers + report.served_origin,
    "sent": lambda report: report.peers_out,
    "origin": lambda report: sum(origin.bytes for origin in report.origins),
    "store": lambda report: report.stored,
    "downloads": lambda report: report.downloads,
}
"""By what nodes are put in order."""


class Unknown(LookupError):
    """What was asked for is not there; the text is for people."""


class ClusterView:
    """Makes pictures of one supernode's cluster. Belongs to the event loop of its server."""

    def __init__(
        self,
        tracker: Tracker,
        roster: Roster,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracker = tracker
        self._roster = roster
        self._telemetry = telemetry
        self._clock = clock

    # --- the whole --------------------------------------------------------------------------------------------------

    def cluster(self) -> Picture:
        """The cluster at a glance."""
        tracker, reports, now = self._tracker, self._telemetry.reports, self._clock()
        stores = [known.report for known in map(reports.get, reports) if known is not None]
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "uptime_seconds": round(now - self._telemetry.began_at, 1),
            "interval_seconds": self._telemetry.interval,
            "nodes": {
                "connected": len(self._roster),
                "reporting": len(reports),
                "versions": dict(Counter(node.software or "unknown" for node in self._roster)),
            },
            "swarms": {
                "known": len(tracker.swarms),
                "active": sum(bool(swarm.leechers) for swarm in tracker.swarms.values()),
            },
            "leases": tracker.leases,
            "downloads": sum(store.downloads for store in stores),
            "rates": _rates(reports.rates()),
            "totals": _totals(reports.totals),
            "saved_bytes": saved(reports.totals),
            "hit_ratio": hit_ratio(reports.totals),
            "store": {
                "bytes": sum(store.stored for store in stores),
                "limit_bytes": sum(store.stored_limit for store in stores),
                "pinned_bytes": sum(store.pinned for store in stores),
            },
            "origins": self._origins(now),
        }

    def _origins(self, now: float) -> list[Picture]:
        """Each origin with its slots, its silence, what came from it, and the rate limit that a node met last."""
        tracker, reports = self._tracker, self._telemetry.reports
        quiet, rates = tracker.quiet(now), reports.origin_rates()
        limits: dict[str, tuple[int | None, int | None]] = {}
        for known in sorted(filter(None, map(reports.get, reports)), key=lambda known: known.at):
            for origin in known.report.origins:
                if origin.limit is not None or origin.remaining is not None:
                    limits[origin.registry] = origin.limit, origin.remaining
        pictures: list[Picture] = []
        for registry in sorted({*tracker.origins, *map(Registry, (*reports.origins, *quiet, *limits))}):
            leased = tracker.origins.get(registry)
            limit, remaining = limits.get(registry, (None, None))
            pictures.append(
                {
                    "registry": registry,
                    "slots": tracker.origin_slots,
                    "slots_used": 0 if leased is None else sum(each.counted for each in leased.leases.values()),
                    "quiet_seconds": round(max(0.0, quiet.get(registry, now) - now), 1),
                    "bytes": reports.origins.get(registry, 0),
                    "rate": round(rates.get(registry, 0.0)),
                    "limit": limit,
                    "remaining": remaining,
                }
            )
        return pictures

    # --- nodes ------------------------------------------------------------------------------------------------------

    def nodes(self) -> Iterator[Picture]:
        """All nodes that are connected, by name, each made when it is asked for."""
        return map(self._node, sorted(self._roster, key=lambda node: (node.name, node.peer)))

    def some_nodes(self, text: str, order: str, first: int, count: int) -> Picture:
        """`count` of the nodes from the `first` on, of those whose name, address, zone, label or version holds `text`.

        `order` is one of `ORDERS`; all but `name` begin with the most.
        """
        text, reports, measure = text.lower(), self._telemetry.reports, ORDERS.get(order)
        found = [node for node in self._roster if not text or any(text in word.lower() for word in _words(node))]
        found.sort(key=lambda node: (node.name, node.peer))
        if measure is not None:
            known = {node.peer: reports.get(node.peer) for node in found}
            found.sort(key=lambda node: 0 if (it := known[node.peer]) is None else measure(it.report), reverse=True)
        return {
            "nodes": [self._node(node) for node in found[first : first + count]],
            "first": first,
            "found": len(found),
            "connected": len(self._roster),
        }

    def node(self, peer: str) -> Picture:
        """One node with its downloads and its images; raises `Unknown`."""
        node = self._roster.get(PeerId(peer))
        if node is None:
            raise Unknown(f"no node {peer[:64]} is connected")
        known = self._telemetry.reports.get(node.peer)
        downloads: list[Picture] = []
        for swarm in self._tracker.swarms_of(node.peer).values():
            if node.peer in swarm.leechers and len(downloads) < _MAX_DOWNLOADS:
                there = swarm.members[node.peer].have.bit_count()
                downloads.append({**_blob(swarm.key), "pieces": swarm.layout.count, "pieces_there": there})
        images = () if known is None else known.images or ()
        return {
            **self._node(node),
            "downloading": downloads,
            "images": [
                {
                    "digest": image.digest,
                    "names": image.names,
                    "bytes": image.stored,
                    "complete": image.complete,
                    "pinned": image.pinned,
                }
                for image in images
            ],
        }

    def _node(self, node: Node) -> Picture:
        known = self._telemetry.reports.get(node.peer)
        swarms = self._tracker.swarms_of(node.peer)
        return {
            "peer": node.peer,
            "name": node.name,
            "labels": dict(node.labels),
            "version": node.software,
            "host": node.contact.host,
            "port": node.contact.port,
            "zone": node.contact.zone,
            "joined": datetime.fromtimestamp(node.joined_at, UTC).isoformat(timespec="seconds"),
            "swarms": len(swarms),
            "report": None if known is None else self._report(known),
        }

    def _report(self, known: Known) -> Picture:
        report, figures = known.report, figures_of(known.report)
        return {
            "age_seconds": round(self._clock() - known.at, 1),
            "uptime_seconds": round(report.uptime, 1),
            "rates": _rates(known.rates),
            "totals": _totals(figures),
            "saved_bytes": saved(figures),
            "hit_ratio": hit_ratio(figures),
            "store": {
                "bytes": report.stored,
                "limit_bytes": report.stored_limit,
                "free_bytes": report.disk_free,
                "pinned_bytes": report.pinned,
                "blobs": report.blobs,
            },
            "downloads": report.downloads,
            "neighbours": report.neighbours,
            "origins": [
                {
                    "registry": origin.registry,
                    "bytes": origin.bytes,
                    "rate": round(known.origin_rates.get(origin.registry, 0.0)),
                    "limit": origin.limit,
                    "remaining": origin.remaining,
                }
                for origin in report.origins
            ],
        }

    # --- swarms -----------------------------------------------------------------------------------------------------

    def swarms(self) -> Picture:
        """The swarms, those first that somebody wants, and of these the largest."""
        found = sorted(
            self._tracker.swarms.values(),
            key=lambda swarm: (len(swarm.leechers), len(swarm.members), swarm.key.size),
            reverse=True,
        )
        return {
            "swarms": [_swarm(swarm) for swarm in found[:_MAX_SWARMS]],
            "left_out": max(0, len(found) - _MAX_SWARMS),
        }

    def blob_of(self, digest: str) -> BlobKey:
        """The blob of that digest which most members have or want; raises `Unknown`."""
        found = [swarm for key, swarm in self._tracker.swarms.items() if key.digest == digest]
        if not found:
            raise Unknown(f"no node has or wants {digest[:160]}")
        return max(found, key=lambda swarm: len(swarm.members)).key

    def swarm(self, digest: str) -> Picture:
        """One swarm with its members, leases and transfers; raises `Unknown`."""
        swarm = self._tracker.swarms[self.blob_of(digest)]
        watched = {peer: self._watched(peer, swarm.key) for peer in swarm.members}
        leases = [lease for origin in self._tracker.origins.values() for lease in origin.leases.values()]
        return {
            **_swarm(swarm),
            "piece_size": swarm.layout.piece_size,
            "interval_seconds": self._telemetry.interval,
            "members": [self._member(*each, swarm, watched[each[0]]) for each in swarm.members.items()],
            "leases": [_lease(lease) for lease in leases if lease.swarm is swarm],
            "transfers": [
                {
                    "to": peer,
                    "from_peer": None if transfer.is_origin else transfer.source,
                    "from_origin": transfer.source if transfer.is_origin else None,
                    "rate": transfer.rate,
                }
                for peer, blob in watched.items()
                for transfer in ([] if blob is None else blob.transfers)
            ],
        }

    def _watched(self, peer: PeerId, key: BlobKey) -> WatchedBlob | None:
        known = self._telemetry.reports.get(peer)
        watched = () if known is None else known.report.watched
        return next((blob for blob in watched if (blob.digest, blob.size) == key), None)

    def _member(self, peer: PeerId, member: Member, swarm: Swarm, watched: WatchedBlob | None) -> Picture:
        have = swarm.layout.all if member.complete else member.have | _pieces_of(watched, swarm.layout)
        node = self._roster.get(peer)
        return {
            "peer": peer,
            "name": peer[:8] if node is None else node.name,
            "complete": member.complete,
            "wants": peer in swarm.leechers,
            "pieces_there": have.bit_count(),
            "have": "" if member.complete else base64.b64encode(to_bitfield(have, swarm.layout.count)).decode(),
        }

    # --- images -----------------------------------------------------------------------------------------------------

    def images(self) -> Picture:
        """The images that nodes say they have, those first that most have."""
        held: dict[str, list[HeldImage]] = {}
        reports = self._telemetry.reports
        for known in map(reports.get, reports):
            for image in () if known is None else known.images or ():
                held.setdefault(image.digest, []).append(image)
        found: dict[str, Picture] = {}
        for digest, images in held.items():
            complete = sum(image.complete for image in images)
            found[digest] = {
                "digest": digest,
                "names": sorted(set(chain.from_iterable(image.names for image in images))),
                "bytes": max(image.stored for image in images),
                "nodes_complete": complete,
                "nodes_partly": len(images) - complete,
                "nodes_pinned": sum(image.pinned for image in images),
            }
        order = sorted(found.values(), key=lambda each: (-int(str(each["nodes_complete"])), str(each["names"])))
        return {"images": order}

    def image(self, digest: str) -> Picture:
        """One image: what its manifest names, as far as a node has told, and which nodes have how much of it.

        Raises `Unknown` where no node says that it has it.
        """
        manifest = self._telemetry.reports.manifests.get(digest)
        held = list(self._holders(digest))
        if manifest is None and not held:
            raise Unknown(f"no node says that it has the image {digest[:160]}")
        swarms = [self._swarm_of(part) for part in (() if manifest is None else manifest.parts)]
        return {
            "digest": digest,
            "names": sorted({name for _, image in held for name in image.names}),
            "media_type": "" if manifest is None else manifest.media_type,
            "parts": None if manifest is None else [self._part(part) for part in manifest.parts],
            "nodes": [
                {
                    "peer": node.peer,
                    "name": node.name,
                    "bytes": image.stored,
                    "complete": image.complete,
                    "pinned": image.pinned,
                    "parts": "".join(_mark(swarm, node.peer) for swarm in swarms),
                }
                for node, image in held
            ],
        }

    def _holders(self, digest: str) -> Iterator[tuple[Node, HeldImage]]:
        """The nodes that say that they have an image, by name, and what they have of it."""
        for node in sorted(self._roster, key=lambda node: (node.name, node.peer)):
            known = self._telemetry.reports.get(node.peer)
            for image in () if known is None else known.images or ():
                if image.digest == digest:
                    yield node, image
                    break

    def _swarm_of(self, part: Part) -> Swarm | None:
        try:
            return self._tracker.swarms.get(BlobKey(Digest(part.digest), part.size))
        except InvalidDigest:
            return None

    def _part(self, part: Part) -> Picture:
        swarm = self._swarm_of(part)
        members = {} if swarm is None else swarm.members
        return {
            "digest": part.digest,
            "size": part.size,
            "media_type": part.media_type,
            "platform": part.platform,
            "nodes_complete": sum(member.complete for member in members.values()),
            "nodes_partly": sum(bool(member.have) and not member.complete for member in members.values()),
        }


def _mark(swarm: Swarm | None, peer: PeerId) -> str:
    """A digit for what a node has of a blob: 2 all of it, 1 pieces, 0 nothing."""
    member = None if swarm is None else swarm.members.get(peer)
    if member is None:
        return "0"
    return "2" if member.complete else "1" if member.have else "0"


def _words(node: Node) -> list[str]:
    labels = [f"{key}={value}" for key, value in node.labels.items()]
    return [node.name, node.contact.host, node.contact.zone, node.software, *labels]


def _blob(key: BlobKey) -> Picture:
    return {"digest": key.digest, "size": key.size}


def _swarm(swarm: Swarm) -> Picture:
    places = {f"{at.registry}/{at.repository}" for member in swarm.leechers.values() for at in member.places}
    return {
        **_blob(swarm.key),
        "pieces": swarm.layout.count,
        "nodes": len(swarm.members),
        "nodes_complete": sum(member.complete for member in swarm.members.values()),
        "nodes_wanting": len(swarm.leechers),
        "pieces_there": sum(
            swarm.layout.count if member.complete else member.have.bit_count() for member in swarm.members.values()
        ),
        "repositories": sorted(places)[:_MAX_PLACES],
    }


def _lease(lease: Lease) -> Picture:
    return {
        "peer": lease.holder,
        "registry": lease.location.registry,
        "repository": lease.location.repository,
        "first": lease.next,
        "end": lease.end,
    }


def _pieces_of(watched: WatchedBlob | None, layout: PieceLayout) -> int:
    """The pieces that a report tells; none where it is not of this layout."""
    try:
        return from_bitfield(watched.have, layout.count) if watched is not None and watched.have else 0
    except ValueError:
        return 0


def _rates(rates: Mapping[str, float]) -> Picture:
    return {
        "origin_in": round(rates.get("origin_in", 0.0)),
        "peers_in": round(rates.get("peers_in", 0.0)),
        "peers_out": round(rates.get("peers_out", 0.0)),
        "served": round(sum(rates.get(name, 0.0) for name in ("served_store", "served_peers", "served_origin"))),
        "requests": round(rates.get("requests", 0.0), 2),
    }


def _totals(totals: Mapping[str, int]) -> Picture:
    return {**totals, "served": served(totals)}
