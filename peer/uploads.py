"""Who is served when: a few upload slots, a short queue behind them, and "busy" for the rest. No I/O."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

from shoal.descriptor import BlobKey
from supernode.protocol import PeerId

UPLOAD_SLOTS = 6
"""Uploads at a time: enough that the link does not idle between two pieces, and no more, since each new piece is to be
passed on soon (docs/architecture.md, "Serving")."""

QUEUED_REQUESTS = 8
"""Requests that wait behind the slots, shared out among those who ask: where few ask, the next transfer starts at once
instead of after a round trip; where many do, "busy" sends them to others."""

_RECENT = 32
"""Requests by which it is judged how many ask."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A request for a piece by a neighbour."""

    peer: PeerId
    blob: BlobKey
    piece: int
    preheats: bool = field(default=False, compare=False)
    """Whether no client waits for it."""


class UploadSlots:
    """The books of uploads. An upload is in service until its bytes have left the socket."""

    def __init__(self, rng: random.Random, slots: int = UPLOAD_SLOTS, queued: int = QUEUED_REQUESTS) -> None:
        self._rng = rng
        self.slots = slots
        self._limit = queued
        self._serving: dict[Upload, None] = {}
        self._per_peer: Counter[PeerId] = Counter()
        self._queue: OrderedDict[Upload, None] = OrderedDict()
        self._recent: deque[PeerId] = deque(maxlen=_RECENT)
        self._turned_away: dict[PeerId, None] = {}

    @property
    def serving(self) -> int:
        return len(self._serving)

    def request(self, upload: Upload) -> bool | None:
        """True: serve it now. None: it waits and comes from `finished` later. False: tell the asker to go elsewhere."""
        if upload in self._serving or upload in self._queue:
            return None
        self._recent.append(upload.peer)
        if len(self._serving) < self.slots:
            self._serve(upload)
            return True
        if sum(waiting.peer == upload.peer for waiting in self._queue) < self._share:
            self._queue[upload] = None
            return None
        self._turned_away[upload.peer] = None
        return False

    @property
    def _share(self) -> int:
        return self._limit // len(set(self._recent))

    def finished(self, upload: Upload) -> tuple[Upload | None, PeerId | None]:
        """An upload is over (or failed): the one to serve next, and the one neighbour to be told that there is room."""
        if upload in self._serving:
            del self._serving[upload]
            self._per_peer[upload.peer] -= 1
        return self._next()

    def cancel(self, upload: Upload) -> None:
        """The asker does not want it any more; what is in service goes on."""
        self._queue.pop(upload, None)

    def drop(self, peer: PeerId) -> tuple[list[Upload], list[PeerId]]:
        """A neighbour is gone: what is to be served in the places that it leaves, and who is to be told of room."""
        self._turned_away.pop(peer, None)
        for upload in [upload for upload in self._queue if upload.peer == peer]:
            del self._queue[upload]
        freed = [upload for upload in self._serving if upload.peer == peer]
        for upload in freed:
            del self._serving[upload]
        del self._per_peer[peer]
        following = [self._next() for _ in freed]
        started = [upload for upload, _ in following if upload is not None]
        return started, [invited for _, invited in following if invited is not None]

    def _serve(self, upload: Upload) -> None:
        self._serving[upload] = None
        self._per_peer[upload.peer] += 1

    def _next(self) -> tuple[Upload | None, PeerId | None]:
        following: Upload | None = None
        if self._queue and len(self._serving) < self.slots:
            following = min(self._queue, key=lambda upload: (upload.preheats, self._per_peer[upload.peer]))
            del self._queue[following]
            self._serve(following)
        invited: PeerId | None = None
        if self._turned_away and len(self._serving) < self.slots:
            # not the first: who hears of new pieces first would get all of them, and the others wait for it
            invited = self._rng.choice(list(self._turned_away))
            del self._turned_away[invited]
        return following, invited
