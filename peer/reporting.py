"""Reports of this node to the supernode: none before it asks, then as often and about what it asks for."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from peer.disk import StoreError
from peer.machine import Machine
from peer.metrics import PeerMetrics
from peer.sought import Sought
from peer.store import Store
from peer.tally import Supplier, Tally
from peer.workers import Workers
from shoal.descriptor import MAX_MANIFEST_SIZE, BlobKey, Descriptor, InvalidManifest, Manifest, Platform
from shoal.digest import Digest, InvalidDigest
from shoal.messages import InvalidMessage, key_of
from shoal.pieces import to_bitfield
from supernode.client import ControlClient
from supernode.report import (
    MAX_IMAGES,
    MAX_PARTS,
    MAX_REPORT_SIZE,
    MAX_TEXT,
    MAX_TRANSFERS,
    HeldImage,
    ManifestParts,
    OriginUse,
    Part,
    Report,
    Transfer,
    Watch,
    WatchedBlob,
)

log = structlog.get_logger()

_SPREAD = 0.25
"""The first report comes within this part of the interval, at random, and the next ones by so much early or late: not
those of all nodes at the same moment."""
_IMAGES_SECONDS = 15.0
"""How long the images that were found are told as they were: all manifests are read for it."""
_MAX_IMAGES_SIZE = MAX_REPORT_SIZE // 4
"""Bytes of the names and digests of all images that are told."""


class Reporting:
    """`run` sends what is due. Belongs to the event loop."""

    def __init__(
        self,
        control: ControlClient,
        machine: Machine,
        tally: Tally,
        store: Store,
        metrics: PeerMetrics,
        neighbours: Callable[[], int],
        workers: Workers,
    ) -> None:
        """`neighbours`: how many are connected."""
        self.limits: Callable[[], Mapping[str, tuple[int | None, int | None]]] = dict
        """What registries said last of their rate limits: requests that they allow, and how many are left."""
        self.images: Callable[[], Awaitable[Sequence[HeldImage]]] = _none
        """Finds which images there are, those used last first; raises `StoreError`."""
        self._control = control
        self._machine = machine
        self._tally = tally
        self._store = store
        self._metrics = metrics
        self._neighbours = neighbours
        self._workers = workers
        self._began_at = time.monotonic()
        self._watch: Watch | None = None
        self._asked = asyncio.Event()
        self._images: list[HeldImage] | None = None
        self._images_at = float("-inf")
        self._manifests: list[str] = []
        """Those of which it is to be told next what they name."""
        self._before: dict[BlobKey, tuple[float, dict[Supplier, int]]] = {}
        """What had come of blobs that are watched when that was told last."""
        control.watching = self.asked

    def asked(self, watch: Watch) -> None:
        """The supernode wants reports."""
        self._watch = watch
        self._images = None  # it may be another supernode, that was told nothing
        self._manifests = list(watch.manifests)
        self._asked.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            while (watch := self._watch) is not None:
                is_next = await self._wait(watch.interval * _SPREAD * random.random())
                while is_next:
                    if not self._control.connected:
                        self._watch = None  # the next supernode asks for itself
                        break
                    await self._report(watch)
                    part = 1.0 + _SPREAD * (random.random() - 0.5)
                    is_next = await self._wait(watch.interval * part)

    async def _wait(self, seconds: float) -> bool:
        """Whether so much time has passed without the supernode's asking anew."""
        try:
            async with asyncio.timeout(seconds):
                await self._asked.wait()
        except TimeoutError:
            return True
        self._asked.clear()
        return False

    async def _report(self, watch: Watch) -> None:
        try:
            report = await self._made(watch)
            if self._control.connected and self._watch is watch:
                self._control.send(report)
        except Exception:  # a fault of ours, or a report that is too large: the next one may go
            log.exception("node.not_reported")

    async def _made(self, watch: Watch) -> Report:
        now, tally, machine = time.monotonic(), self._tally, self._machine
        figures = self._metrics.figures
        images = await self._changed_images(now) if watch.images else None
        manifests = await self._asked_manifests()
        served = tally.served
        return Report(
            now - self._began_at,
            tally.peers_in,
            tally.peers_out,
            served["store"],
            served["peer"],
            served["origin"],
            tally.requests,
            self._origins(),
            figures.size,
            figures.limit,
            figures.disk_free,
            figures.pinned,
            sum(1 for _ in self._store.digests()),
            len(machine.sought),
            self._neighbours(),
            self._watched(watch, now),
            images,
            manifests,
        )

    def _origins(self) -> list[OriginUse]:
        limits = self.limits()
        return [OriginUse(name, came, *limits.get(name, (None, None))) for name, came in self._tally.origins.items()]

    # --- blobs ------------------------------------------------------------------------------------------------------

    def _watched(self, watch: Watch, now: float) -> list[WatchedBlob]:
        watched, before = [], self._before
        self._before = {}
        for blob in watch.blobs:
            try:
                sought = self._machine.sought.get(key_of(blob))
            except InvalidMessage:
                continue
            if sought is not None:
                watched.append(self._seen(sought, *before.get(sought.key, (now, {})), now))
                self._before[sought.key] = now, sought.delivery.suppliers.copy()
        return watched

    def _seen(self, sought: Sought, since: float, before: Mapping[Supplier, int], now: float) -> WatchedBlob:
        there = sought.pieces.there
        seconds = max(now - since, 0.001)
        came = {supplier: count - before.get(supplier, 0) for supplier, count in sought.delivery.suppliers.items()}
        transfers = [
            Transfer(supplier.name, supplier.is_origin, round(count / seconds))
            for supplier, count in came.items()
            if count and since < now
        ]
        have = to_bitfield(there, sought.layout.count) if there else b""
        return WatchedBlob(*sought.key, have, transfers[:MAX_TRANSFERS])

    # --- the store --------------------------------------------------------------------------------------------------

    async def _changed_images(self, now: float) -> list[HeldImage] | None:
        if self._images is not None and now - self._images_at < _IMAGES_SECONDS:
            return None
        self._images_at = now
        try:
            images = _within(await self.images(), _MAX_IMAGES_SIZE)
        except (StoreError, OSError) as error:
            log.debug("images.not_told", error=str(error))
            return None
        before, self._images = self._images, images
        return None if images == before else images

    async def _asked_manifests(self) -> list[ManifestParts]:
        asked, self._manifests = self._manifests, []
        found = []
        for text in asked:
            try:
                parts = await self._workers.run_long(functools.partial(_parts_of, self._store, Digest(text)))
            except (InvalidDigest, StoreError, OSError) as error:
                log.debug("manifest.not_told", digest=text, error=str(error))
                continue
            if parts is not None:
                found.append(parts)
        return found


async def _none() -> Sequence[HeldImage]:
    return ()


def _within(images: Sequence[HeldImage], size: int) -> list[HeldImage]:
    """The first images, whose texts have at most so many bytes together."""
    chosen = []
    for image in images[:MAX_IMAGES]:
        size -= len(image.digest) + sum(map(len, image.names))
        if size < 0:
            break
        chosen.append(image)
    return chosen


def _parts_of(store: Store, digest: Digest) -> ManifestParts | None:
    """What a manifest of the store names; None where it is none, or is not there. Raises `StoreError`."""
    content = store.peek(digest, MAX_MANIFEST_SIZE)
    if content is None:
        return None
    try:
        manifest = Manifest.parse(content)
    except InvalidManifest:
        return None
    parts = [_part(blob, None) for blob in manifest.blobs] + [_part(*child) for child in manifest.children]
    return ManifestParts(digest, manifest.media_type[:MAX_TEXT], parts[:MAX_PARTS])


def _part(named: Descriptor, platform: Platform | None) -> Part:
    text = "/".join(filter(None, (platform.os, platform.architecture, platform.variant))) if platform else ""
    return Part(named.digest, min(named.size, 1 << 53), named.media_type[:MAX_TEXT], text[:MAX_TEXT])
