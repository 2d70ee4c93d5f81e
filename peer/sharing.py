"""Whom of its neighbours a peer tells of which pieces, and when. No I/O."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from peer import wire
from peer.commands import Command, Send
from peer.sought import Sought
from shoal.descriptor import BlobKey
from shoal.messages import BlobRef
from shoal.pieces import PieceLayout, PieceSet, iterate, to_bitfield
from supernode.protocol import PeerId

_JOIN_DELAY = 0.005
"""Seconds for which handouts are collected: those of an image are told to each neighbour in one message."""
_MAX_TOLD = 2048
"""Pieces of which one message tells."""
_MAX_JOIN = 64 << 10
"""Bytes of bitfields in one message."""


class Library(Protocol):
    """The whole, verified blobs of this peer."""

    def holds(self, blob: BlobKey) -> bool:
        """Whether a blob is there."""

    def holdings(self) -> Iterable[BlobKey]:
        """All of them."""


@dataclass(slots=True)
class _News:
    """What is to be told at its time, as one message for each neighbour."""

    pieces: dict[BlobKey, PieceSet] = field(default_factory=dict)
    at: float = float("inf")


class Sharing:
    """What each neighbour has been told, and what is to be told at its time."""

    def __init__(self, library: Library, sought: dict[BlobKey, Sought], out: list[Command], rng: random.Random) -> None:
        self._library = library
        self._sought = sought
        self._out = out
        self._rng = rng
        self._to_join: dict[PeerId, dict[BlobKey, None]] = {}
        self._join_at = float("inf")
        self._news = _News()
        self.told: dict[PeerId, set[BlobKey]] = {}
        """The blobs that each connected neighbour knows this peer to have pieces of."""
        self.tells_digests = False
        """Whether digests of own pieces go with the news of them: where no supernode tells them."""

    @property
    def wake_at(self) -> float:
        """When `wake` wants to be called."""
        return min(self._join_at, self._news.at)

    def offer(self, blob: BlobKey) -> tuple[PieceLayout, PieceSet] | None:
        """What this peer has of a blob."""
        sought = self._sought.get(blob)
        if sought is not None:
            return sought.layout, 0 if sought.passes else sought.pieces.there
        if not self._library.holds(blob):
            return None
        layout = PieceLayout.of(blob.size)
        return layout, layout.all

    def join_soon(self, peer: PeerId, blob: BlobKey, now: float) -> None:
        self._join_at = min(self._join_at, now + _JOIN_DELAY)
        self._to_join.setdefault(peer, {})[blob] = None

    def join(self, peer: PeerId, blobs: Iterable[BlobKey]) -> None:
        """Say what this peer has of these blobs, where it has not been said."""
        told = self.told[peer]
        joined: list[wire.Joined] = []
        size = 0
        for blob in blobs:
            offer = self.offer(blob)
            if offer is None or blob in told:
                continue
            told.add(blob)
            layout, have = offer
            bitfield = b"" if have == layout.all else to_bitfield(have, layout.count)
            if size + len(bitfield) > _MAX_JOIN or len(joined) == wire.MAX_JOINED:
                self._out.append(Send((peer,), wire.Join(joined)))
                joined, size = [], 0
            joined.append(wire.Joined(*blob, bitfield))
            size += len(bitfield)
        if joined:
            self._out.append(Send((peer,), wire.Join(joined)))

    def withdraw(self, blob: BlobKey) -> None:
        """This peer has nothing of a blob any more."""
        self._news.pieces.pop(blob, None)
        told = [peer for peer, blobs in self.told.items() if blob in blobs]
        for peer in told:
            self.told[peer].discard(blob)
        if told:
            self._out.append(Send(told, wire.Part([BlobRef(*blob)])))

    def gained(self, sought: Sought, piece: int, now: float, *, own: bool, depth: int) -> None:
        """A piece is there: tell those who lack it, at once where it comes from an origin.

        `depth`: how many requests may be outstanding."""
        news = self._news
        news.pieces[sought.key] = news.pieces.get(sought.key, 0) | 1 << piece
        if own or not sought.pieces.missing:
            news.at = now
        elif news.at == float("inf"):
            news.at = now + sought.book.news_delay(depth)

    def tell_own(self, sought: Sought) -> None:
        """No supernode tells the digests of what this peer fetched: it does so itself."""
        if peers := self._told(sought.key):
            self._tell_pieces(peers, sought.key, sought, sought.own & sought.pieces.there)

    def tell_coming(self, sought: Sought, pieces: PieceSet) -> None:
        """These pieces come from an origin without a lease: others need not fetch them."""
        if peers := self._told(sought.key):
            self._out.append(Send(peers, wire.Coming(*sought.key, to_bitfield(pieces, sought.layout.count))))

    def wake(self, now: float) -> None:
        """Say what was collected until its time."""
        if now >= self._join_at:
            self._join_at = float("inf")
            waiting, self._to_join = self._to_join, {}
            for peer, blobs in waiting.items():
                if peer in self.told:
                    self.join(peer, blobs)
        if now >= self._news.at:
            self._tell_news()

    def _tell_news(self) -> None:
        """Tell each neighbour of new pieces, but not of those that it has itself; in a new order each time, since the
        first to hear ask first."""
        news, self._news = self._news.pieces, _News()
        neighbours = list(self.told.items())
        self._rng.shuffle(neighbours)
        for blob, pieces in news.items():
            sought = self._sought.get(blob)
            holders = sought.book.holders if sought is not None else {}
            lacking: dict[PieceSet, list[PeerId]] = {}
            for peer, told in neighbours:
                if blob in told and (lacks := pieces & ~holders.get(peer, 0)):
                    lacking.setdefault(lacks, []).append(peer)
            for lacks, peers in lacking.items():
                self._tell_pieces(peers, blob, sought, lacks)

    def _told(self, blob: BlobKey) -> list[PeerId]:
        """The neighbours that know that this peer shares a blob."""
        return [peer for peer, told in self.told.items() if blob in told]

    def _tell_pieces(self, peers: list[PeerId], blob: BlobKey, sought: Sought | None, pieces: PieceSet) -> None:
        own = pieces & sought.own if self.tells_digests and sought is not None else 0
        for told, with_digests in ((own, True), (pieces & ~own, False)):
            indices: list[int] = list(iterate(told))
            for start in range(0, len(indices), _MAX_TOLD):
                part = indices[start : start + _MAX_TOLD]
                digests = b"".join(sought.table[index] for index in part) if with_digests and sought else b""
                self._out.append(Send(peers, wire.Have(*blob, part, digests)))
