"""Which requests of neighbours are served, wait, or are turned away. No I/O."""

from __future__ import annotations

import random
from collections.abc import Iterable

from peer import wire
from peer.commands import Command, Send, Serve
from peer.sharing import Sharing
from peer.uploads import Upload, UploadSlots
from supernode.protocol import PeerId


class Uploading:
    """The upload slots, and what follows from them."""

    def __init__(self, sharing: Sharing, out: list[Command], slots: int, rng: random.Random) -> None:
        self._sharing = sharing
        self._out = out
        self._slots = UploadSlots(rng, slots)

    def resize(self, slots: int) -> None:
        """So many uploads at a time from now on; those that run go on."""
        self._slots.slots = slots

    @property
    def serving(self) -> int:
        """Uploads now."""
        return self._slots.serving

    def cancelled(self, upload: Upload) -> None:
        """The asker does not want it any more."""
        self._slots.cancel(upload)

    def gone(self, peer: PeerId) -> None:
        """A neighbour is gone."""
        self._serve(*self._slots.drop(peer))

    def uploaded(self, upload: Upload) -> None:
        """An upload has left, or its connection is gone."""
        following, invited = self._slots.finished(upload)
        self._serve([following] if following is not None else [], [invited] if invited is not None else [])

    def unservable(self, upload: Upload) -> None:
        """What was to be sent cannot be read."""
        self._out.append(Send((upload.peer,), wire.Absent(*upload.blob, upload.piece)))
        self.uploaded(upload)

    def requested(self, upload: Upload) -> None:
        offer = self._sharing.offer(upload.blob)
        if offer is None or not offer[1] >> upload.piece & 1:
            self._out.append(Send((upload.peer,), wire.Absent(*upload.blob, upload.piece)))
            return
        now_or_later = self._slots.request(upload)
        if now_or_later:
            self._out.append(Serve(upload))
        elif now_or_later is False:
            self._out.append(Send((upload.peer,), wire.Busy(*upload.blob, upload.piece)))

    def _serve(self, started: Iterable[Upload], invited: Iterable[PeerId]) -> None:
        self._out += [Serve(upload) for upload in started]
        self._out += [Send((peer,), wire.Ready()) for peer in invited if peer in self._sharing.told]
