"""What members say the pieces of blobs are: who is asked, who is told, and who is found out. No I/O.

The digests themselves, and what each word counts, are `supernode.tables`'.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from shoal.descriptor import BlobKey
from shoal.messages import InvalidMessage, pieces_of
from shoal.pieces import PIECE_DIGEST_SIZE, PieceSet, iterate, to_bitfield
from shoal.recent import Recent
from supernode import protocol
from supernode.alarms import PIECES, Alarm
from supernode.ledger import Ledger
from supernode.outbox import Outbox
from supernode.protocol import PeerId
from supernode.swarm import Swarm

_ASK_AGAIN_SECONDS = 2.0
_NEWS_SECONDS_EACH = 50e-6
"""News of a swarm waits so long for each that hears of it: at most 20,000 messages a second, half of what is taken."""
_EXCLUDED_SECONDS, _MAX_EXCLUDED = 600.0, 4096
"""How long a peer is kept out that two others have contradicted, and how many such peers are remembered."""
_SETTLE_SECONDS = 1.0
"""Between two attempts to find a third peer that says what a piece is of which two say different things."""


class Cluster(Protocol):
    """Who leads origins and peers (`supernode.tracker`)."""

    def lease_to_settle(self, swarm: Swarm, piece: int, parties: Collection[PeerId], now: float) -> PeerId | None:
        """Lease one piece to a peer that is none of `parties`; returns that peer, or None where none can have it."""

    def expel(self, peer: PeerId, now: float) -> None:
        """A peer has to go."""


class Testimony:
    """The words of all members about all swarms."""

    def __init__(
        self, cluster: Cluster, swarms: Mapping[BlobKey, Swarm], ledger: Ledger, outbox: Outbox, rng: random.Random
    ) -> None:
        self._cluster = cluster
        self._swarms = swarms
        self._ledger = ledger
        self._outbox = outbox
        self._rng = rng
        self._excluded: Recent[PeerId, float] = Recent(_MAX_EXCLUDED)
        self._news: dict[BlobKey, Swarm] = {}
        self._untold: dict[BlobKey, Swarm] = {}
        self._contested: dict[BlobKey, Swarm] = {}
        """Swarms of whose pieces members say different things."""
        self._settle_due = 0.0
        self.alarms: list[Alarm] = []

    @property
    def swarms(self) -> set[BlobKey]:
        """Those of which something is to be told, asked or settled."""
        return self._news.keys() | self._untold.keys() | self._contested.keys()

    def excludes(self, peer: PeerId, now: float) -> bool:
        """Whether a peer is kept out, since two others have contradicted it."""
        return now < self._excluded.get(peer, 0.0)

    def wanted(self, swarm: Swarm) -> None:
        """Members may have pieces of which nobody has said what they are."""
        self._untold[swarm.key] = swarm

    def gone(self, key: BlobKey) -> None:
        """A swarm is no more."""
        for books in (self._news, self._untold, self._contested):
            books.pop(key, None)

    def introduce(self, peer: PeerId, swarm: Swarm) -> None:
        """Tell a new member what is known."""
        if swarm.table.tabled and peer not in swarm.apart:
            self._outbox.send([peer], self._digests(swarm, swarm.table.tabled))

    def tick(self, now: float) -> None:
        """Tell news, ask for what nobody has said yet, settle what is contested."""
        self._tell_news(now)
        self._ask(now)
        if now < self._settle_due:
            return
        self._settle_due = now + _SETTLE_SECONDS
        for key, swarm in list(self._contested.items()):
            self._settle(swarm, now)
            if not swarm.table.contested:
                del self._contested[key]

    def table(self, peer: PeerId, swarm: Swarm, message: protocol.Table, now: float) -> None:
        """Believed of a peer that was asked, for pieces that it has."""
        if peer not in swarm.table.asked:
            return
        try:
            among = pieces_of(message.pieces, swarm.layout)
            if len(message.digests) != among.bit_count() * PIECE_DIGEST_SIZE:
                raise InvalidMessage("a table of the wrong length")
        except InvalidMessage as error:
            self._outbox.refuse(peer, message, error)
            return
        del swarm.table.asked[peer]
        swarm.table.ask_due = now
        member = swarm.members[peer]
        pieces = swarm.all if member.complete else member.have
        self.report(peer, swarm, among & pieces, list(iterate(among)), message.digests, now, firm=member.complete)

    def report(
        self,
        peer: PeerId,
        swarm: Swarm,
        pieces: PieceSet,
        among: Sequence[int],
        digests: bytes,
        now: float,
        *,
        firm: bool,
    ) -> None:
        """A member says what pieces are; who is contradicted by two is found out by it."""
        if not self._ledger.may_take(peer, len(digests)):
            return
        before = swarm.table.size
        liars = swarm.table.report(peer, pieces, among, digests, firm)
        if peer in swarm.members:
            self._ledger.charge(peer, swarm.members[peer], swarm.table.size - before)
        self._news[swarm.key] = swarm
        if swarm.table.contested:
            self._contested[swarm.key] = swarm
            self._settle(swarm, now)
        for liar in liars:
            self._exclude(liar, swarm, now)

    def corrupt(self, peer: PeerId, swarm: Swarm, now: float) -> None:
        if peer not in swarm.leechers:
            return
        if swarm.table.complain(peer, now):
            self._void(swarm, swarm.table.void(now))
            self._untold[swarm.key] = swarm  # who has the verified blob can tell the right digests
        else:  # one member's word: nobody else loses anything by it
            swarm.set_apart(peer)
            self._ask_seed(swarm, [peer], now)

    def _tell_news(self, now: float) -> None:
        """Tell leechers of new piece digests: the more there are, the more rarely, else news is all that is done."""
        for key, swarm in list(self._news.items()):
            table = swarm.table
            if now < table.news_due:
                continue
            del self._news[key]
            if table.news:
                leechers = [peer for peer in swarm.leechers if peer not in swarm.apart]
                self._outbox.send(leechers, self._digests(swarm, table.news))
                table.news, table.news_due = 0, now + len(leechers) * _NEWS_SECONDS_EACH

    def _ask(self, now: float) -> None:
        """Pieces without a digest are of no use to the swarm: ask those who have them, one at a time."""
        for key, swarm in list(self._untold.items()):
            table = swarm.table
            if now < table.ask_due:
                continue
            untold = swarm.held & ~table.tabled
            if not untold:
                del self._untold[key]
                continue
            holders = [peer for peer, member in swarm.members.items() if member.have & untold]
            if not holders:
                continue
            chosen = min(
                holders,
                key=lambda peer: (table.asked.get(peer, 0.0), not swarm.members[peer].complete, self._rng.random()),
            )
            table.asked[chosen] = now
            table.ask_due = now + _ASK_AGAIN_SECONDS
            self._outbox.send([chosen], protocol.NeedTable(*key))

    def _settle(self, swarm: Swarm, now: float) -> None:
        """Members say different things of a piece: one that fetches it from an origin decides, or one that has verified
        the whole blob."""
        for piece, contest in swarm.table.contested.items():
            parties = contest.words.keys() | contest.asked
            holder = self._cluster.lease_to_settle(swarm, piece, parties, now)
            contest.asked.update(self._ask_seed(swarm, parties, now) if holder is None else [holder])

    def _ask_seed(self, swarm: Swarm, but: Collection[PeerId], now: float) -> list[PeerId]:
        """Ask one that has verified the whole blob what its pieces are, and return it."""
        said = swarm.table.asked.keys() | but
        seeds = [
            peer
            for peer, member in swarm.members.items()
            if member.complete and peer not in said and not swarm.has_words_of(peer)
        ]
        for peer in seeds[:1]:
            swarm.table.asked[peer] = now
            self._outbox.send([peer], protocol.NeedTable(*swarm.key))
        return seeds[:1]

    def _exclude(self, liar: PeerId, about: Swarm, now: float) -> None:
        """Two members contradict this one: nothing of what it said alone is believed, of any blob, and it has to go."""
        self.alarms.append(Alarm(PIECES, about.key.digest, liar))
        self._excluded.put(liar, now + _EXCLUDED_SECONDS)
        for swarm in [each for each in self._swarms.values() if each.has_words_of(liar)]:
            apart = list(swarm.apart)
            self._void(swarm, swarm.table.withdraw(liar))
            for peer in apart:
                swarm.apart.discard(peer)
                self._outbox.send([peer], self._digests(swarm, swarm.table.tabled))
            self._news[swarm.key] = self._untold[swarm.key] = swarm
        self._cluster.expel(liar, now)

    def _void(self, swarm: Swarm, pieces: PieceSet) -> None:
        """Nothing that was told of these pieces is to be trusted."""
        if pieces:
            bitfield = b"" if pieces == swarm.all else to_bitfield(pieces, swarm.layout.count)
            self._outbox.send(swarm.void(pieces), protocol.Void(*swarm.key, bitfield))

    def _digests(self, swarm: Swarm, pieces: PieceSet) -> protocol.TableNews:
        return protocol.TableNews(*swarm.key, to_bitfield(pieces, swarm.layout.count), swarm.table.digests_of(pieces))
