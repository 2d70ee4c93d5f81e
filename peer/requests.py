"""How many requests may be outstanding, at whom, and which neighbours have got stuck. No I/O.

Which piece is asked of whom stands in `peer.piecemap`, whose transitions count here. Times are in seconds of any
monotonic clock. The figures behind the constants are in `docs/architecture.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from peer.uploads import UPLOAD_SLOTS
from shoal.recent import Recent
from supernode.protocol import PeerId

START_DEPTH = 2 * UPLOAD_SLOTS
"""Requests outstanding at the start."""

WIDE_DEPTH = 4 * UPLOAD_SLOTS
"""And with many neighbours, which refuse more of them."""

_MESH = 15
"""Neighbours up to which `START_DEPTH` was measured."""
_MAX_DEPTH = 64
_LIMITED_SECONDS, _LEAST_DEPTH = 0.5, 2
"""What may be outstanding where the node limits itself: what comes in this time, and so many pieces at least. What more
is asked for would fill its neighbours' upload slots."""
_COVER = 1.5
"""Outstanding bytes over rate x latency."""
_RATE_SECONDS = 1.0
_LATENCY_SECONDS = 10.0
_MIN_PATIENCE, _PATIENCE = 2.0, 6.0
"""Seconds without a byte, and times the seconds that a piece takes, after which a neighbour counts as stuck."""
_SMOOTHING = 0.25
_LATE, _MIN_LATE = 2.0, 0.1
"""Times the seconds that a piece takes, and seconds, after which the last pieces are asked of a second neighbour."""
_REST_SECONDS = 0.3
"""How long a neighbour that said busy is left alone, where it does not call earlier."""
_SILENT_REST, _MAX_SILENT_REST = 10.0, 160.0
"""Seconds for which a neighbour that is silent is left alone, at first and at most."""
_MOST_BROKEN = 3
"""Pieces in a row that a neighbour claimed and did not have, or that were not what they were to be, before it is left
alone: one may be an honest one's, whose blob is being removed or whose word stands against a liar's."""
_DOUBT_SECONDS = 3.0
"""A neighbour that was asked for so long without giving a piece is no source to count on."""
_MAX_SILENCES = 256
_SEVERAL_PACKETS = 64 << 10
"""Bytes that no single packet holds: a way that swallows large packets lets small pieces through."""


@dataclass(slots=True)
class _Account:
    """What is known of one neighbour."""

    load: int = 0
    waiting_since: float = 0.0
    """Since when requests are outstanding without a byte of an answer."""
    rests_until: float = 0.0
    took: float | None = None
    busy_since: float | None = None
    """Since when it has turned away all that it was asked for."""
    silent_until: float = 0.0
    silences: int = 0
    """Times that it was silent since it gave something last."""
    broken: int = 0
    """Claims that turned out to be empty, or wrong, since it gave a piece that was right."""


@dataclass(slots=True)
class Silence:
    """How often a neighbour was asked and sent no byte, from `since` to `last`, without a large piece of it since."""

    since: float
    last: float
    times: int = 1


class Requests:
    """The accounts of all neighbours. Keep `sources`, the neighbours to spread requests over, and `piece_size`, the
    largest of what is asked for in bytes, up to date."""

    def __init__(self) -> None:
        self._accounts: dict[PeerId, _Account] = {}
        self.silences: Recent[PeerId, Silence] = Recent(_MAX_SILENCES)
        """Of those too that are no neighbours any more."""
        self._rate = 0.0
        self._latency = 0.0
        self._latency_at = 0.0
        self._window_start = 0.0
        self._window_bytes = 0
        self._service = 0.0
        self._covering = 0
        self.count = 0
        self.sources = 0
        self.piece_size = 1
        self.limit = 0.0
        """Bytes/s that this node lets come to itself; 0: no limit."""

    def load(self, peer: PeerId) -> int:
        """Requests outstanding at one neighbour."""
        account = self._accounts.get(peer)
        return account.load if account is not None else 0

    @property
    def depth(self) -> int:
        """Requests that may be outstanding: it follows rate x latency, as LEDBAT's window does, from a floor up."""
        floor = min(max(START_DEPTH, self.sources * START_DEPTH // _MESH), WIDE_DEPTH)
        depth = min(max(floor, self._covering), _MAX_DEPTH)
        if not self.limit:
            return depth
        return min(depth, max(_LEAST_DEPTH, round(self.limit * _LIMITED_SECONDS / self.piece_size)))

    @property
    def most_at_one(self) -> int:
        """Requests that may be outstanding at one neighbour: rare pieces draw all askers to one holder, and what it
        cannot serve soon is better asked elsewhere."""
        return -(-self.depth // max(self.sources, 1))

    def cost(self, peer: PeerId) -> float:
        """How little is to be said for asking one neighbour: what is outstanding there, then how slow it has been.

        The whole part is the load; the fraction grows with the seconds from request to piece.
        """
        account = self._account(peer)
        took = account.took if account.took is not None else self._service
        return account.load + took / (1 + took)

    def is_late(self, asked_at: float, now: float) -> bool:
        """Whether a request takes much longer than requests take."""
        return bool(self._service) and now - asked_at > max(_LATE * self._service, _MIN_LATE)

    def takers(self, peers: Iterable[PeerId], now: float) -> list[PeerId]:
        """Those neighbours that can be asked for one piece more."""
        accounts, most = self._accounts, self.most_at_one
        takers = []
        for peer in peers:
            account = accounts.get(peer)
            if account is None or (account.load < most and account.rests_until <= now):
                takers.append(peer)
        return takers

    def is_doubtful(self, peer: PeerId, now: float) -> bool:
        """Whether a neighbour has been asked for long and has only turned requests away, or was silent."""
        account = self._accounts.get(peer)
        if account is None:
            return False
        busy = account.busy_since is not None and account.rests_until - account.busy_since > _DOUBT_SECONDS
        return busy or account.silent_until > now

    def is_left_alone(self, peer: PeerId, now: float) -> bool:
        """Whether a neighbour has been silent, or has broken claims, and is not asked for a while."""
        account = self._accounts.get(peer)
        return account is not None and account.silent_until > now

    # --- the transitions of `peer.piecemap` -----------------------------------------------------------------------

    def sent(self, peer: PeerId, now: float) -> None:
        """A request has gone out."""
        account = self._account(peer)
        if not account.load:
            account.waiting_since = now
        account.load += 1
        self.count += 1

    def over(self, peer: PeerId) -> None:
        """A request has been answered or given up."""
        self._account(peer).load -= 1
        self.count -= 1

    # --- what is heard --------------------------------------------------------------------------------------------

    def began(self, peer: PeerId, asked_at: float, now: float) -> None:
        """The first byte of a piece has come."""
        self._account(peer).waiting_since = now
        latency = now - asked_at
        if latency < self._latency or now - self._latency_at > _LATENCY_SECONDS:
            self._latency, self._latency_at = latency, now

    def moved(self, peer: PeerId, at: float) -> None:
        """More bytes of a piece have come."""
        account = self._accounts.get(peer)
        if account is not None:
            account.waiting_since = max(account.waiting_since, at)

    def silence(self, peer: PeerId, now: float) -> float:
        """Seconds for which a neighbour that was asked has sent no byte."""
        account = self._accounts.get(peer)
        return 0.0 if account is None else now - account.waiting_since

    def done(self, peer: PeerId, asked_at: float, size: int, now: float) -> None:
        """A piece of `size` bytes has come."""
        account, took = self._account(peer), now - asked_at
        account.waiting_since, account.busy_since, account.silences = now, None, 0
        if size > _SEVERAL_PACKETS:
            self.silences.pop(peer, None)
        account.took = _smoothed(took if account.took is None else account.took, took)
        self._service = _smoothed(self._service or took, took)
        self._adapt(size, now)

    def busy(self, peer: PeerId, now: float) -> None:
        """A neighbour turned a request away."""
        account = self._account(peer)
        account.rests_until, account.waiting_since = now + _REST_SECONDS, now
        if account.busy_since is None:
            account.busy_since = now

    def ready(self, peer: PeerId) -> None:
        """A neighbour calls: it has room."""
        account = self._account(peer)
        if account.broken < _MOST_BROKEN:
            account.rests_until = 0.0

    def leave_alone(self, peer: PeerId, now: float) -> None:
        """Do not ask a neighbour that is silent for a while, which grows with each time that it is."""
        account = self._account(peer)
        account.silences += 1
        self._rest(account, account.silences, now)
        known = self.silences.get(peer)
        if known is None:
            self.silences.put(peer, Silence(now, now))
        else:
            known.last, known.times = now, known.times + 1

    def broke_claim(self, peer: PeerId, now: float, *, knowingly: bool = False) -> None:
        """A piece that a neighbour has claimed it does not have, or not as it is to be; `knowingly`: as no honest peer
        fails."""
        account = self._account(peer)
        account.broken = max(account.broken + 1, _MOST_BROKEN if knowingly else 0)
        if account.broken >= _MOST_BROKEN:
            self._rest(account, account.broken - _MOST_BROKEN + 1, now)

    def kept_claim(self, peer: PeerId) -> None:
        """A neighbour's piece is right."""
        account = self._accounts.get(peer)
        if account is not None:
            account.broken = 0

    def absolve(self, peer: PeerId) -> None:
        """What a neighbour's pieces did not match was wrong itself."""
        account = self._accounts.get(peer)
        if account is not None and account.broken:
            if account.broken >= _MOST_BROKEN:
                account.rests_until = account.silent_until = 0.0
            account.broken = 0

    @staticmethod
    def _rest(account: _Account, times: int, now: float) -> None:
        seconds = min(_SILENT_REST * 2 ** min(times - 1, 10), _MAX_SILENT_REST)
        account.rests_until = account.silent_until = now + seconds

    def drop(self, peer: PeerId, now: float) -> None:
        """A neighbour is gone, and nothing is asked of it any more. Who broke claims is left alone when it returns too;
        who was silent may have been stopped."""
        account = self._accounts.get(peer)
        if account is not None and (account.broken < _MOST_BROKEN or account.silent_until <= now):
            del self._accounts[peer]

    def stuck(self, now: float) -> list[PeerId]:
        """Neighbours with requests outstanding of which no byte has come for too long."""
        patience = max(_MIN_PATIENCE, _PATIENCE * self._service)
        accounts = self._accounts.items()
        return [peer for peer, account in accounts if account.load and now - account.waiting_since > patience]

    def _account(self, peer: PeerId) -> _Account:
        account = self._accounts.get(peer)
        if account is None:
            account = self._accounts[peer] = _Account()
        return account

    def _adapt(self, size: int, now: float) -> None:
        self._window_bytes += size
        elapsed = now - self._window_start
        if elapsed < _RATE_SECONDS:
            return
        self._rate = self._window_bytes / elapsed
        self._window_start, self._window_bytes = now, 0
        self._covering = round(_COVER * self._rate * self._latency / max(size, 1)) + UPLOAD_SLOTS


def _smoothed(before: float, sample: float) -> float:
    return before + _SMOOTHING * (sample - before)
