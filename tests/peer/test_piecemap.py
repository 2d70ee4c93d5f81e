"""The map of pieces against a model that is as simple as can be, through everything that can happen."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from peer.piecemap import IllegalTransition, PieceMap, StreamId
from peer.requests import Requests
from shoal.pieces import MIB, PieceLayout, iterate, run_of
from supernode.protocol import PeerId

PEERS = [PeerId(name) for name in "abcd"]
STREAMS = [StreamId(number) for number in (1, 2, 3)]
LAYOUT = PieceLayout.of(2 * MIB)
pieces = st.integers(0, LAYOUT.count - 1)
peers, streams = st.sampled_from(PEERS), st.sampled_from(STREAMS)
ABSENT, ASKED, LEASED, LANDING, THERE = "absent", "asked", "leased", "landing", "there"


class Pieces(RuleBasedStateMachine):
    """Every transition, legal or not, tried on both; neighbours and streams vanish at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = Requests()
        self.map = PieceMap(LAYOUT, self.requests)
        self.state = dict.fromkeys(range(LAYOUT.count), ABSENT)
        self.askers: dict[int, set[PeerId]] = {piece: set() for piece in self.state}
        self.stream: dict[int, StreamId] = {}
        self.doomed: set[int] = set()

    def forget(self, piece: int, peer: PeerId) -> None:
        self.askers[piece].discard(peer)
        if self.state[piece] == ASKED and not self.askers[piece]:
            self.state[piece] = ABSENT

    @rule(piece=pieces, peer=peers)
    def ask(self, piece: int, peer: PeerId) -> None:
        legal = self.state[piece] in (ABSENT, ASKED) and peer not in self.askers[piece]
        if not legal:
            with pytest.raises(IllegalTransition):
                self.map.ask(piece, peer, 0.0)
            return
        self.map.ask(piece, peer, 0.0)
        self.state[piece] = ASKED
        self.askers[piece].add(peer)

    @rule(piece=pieces, peer=peers)
    def unask(self, piece: int, peer: PeerId) -> None:
        assert self.map.unask(piece, peer) is (peer in self.askers[piece])
        self.forget(piece, peer)

    @rule(peer=peers)
    def a_neighbour_is_killed(self, peer: PeerId) -> None:
        asked = self.map.asked_of(peer)
        assert set(asked) == {piece for piece, askers in self.askers.items() if peer in askers}
        for piece in asked:
            self.map.unask(piece, peer)
            self.forget(piece, peer)
        self.requests.drop(peer, 0.0)

    @rule(stream=streams, first=pieces, count=st.integers(1, 4))
    def lease(self, stream: StreamId, first: int, count: int) -> None:
        wanted = run_of(first, count) & LAYOUT.all
        free = all(self.state[piece] in (ABSENT, ASKED) for piece in iterate(wanted))
        if not free:
            with pytest.raises(IllegalTransition):
                self.map.lease(stream, wanted)
            return
        void = self.map.lease(stream, wanted)
        assert set(void) == {(piece, peer) for piece in iterate(wanted) for peer in self.askers[piece]}
        for piece in iterate(wanted):
            self.askers[piece].clear()
            self.state[piece], self.stream[piece] = LEASED, stream

    @rule(stream=streams, wanted=st.integers(0, LAYOUT.all))
    def unlease(self, stream: StreamId, wanted: int) -> None:
        given_up = self.map.unlease(stream, wanted)
        assert set(iterate(given_up)) == {p for p, s in self.stream.items() if s == stream and wanted >> p & 1}
        for piece in iterate(given_up):
            del self.stream[piece]
            self.state[piece] = ABSENT

    @rule(piece=pieces, peer=peers)
    def land_asked(self, piece: int, peer: PeerId) -> None:
        if peer not in self.askers[piece]:
            return
        assert set(self.map.land_asked(piece, peer)) == self.askers[piece] - {peer}
        self.askers[piece].clear()
        self.state[piece] = LANDING

    @rule(piece=pieces, stream=streams)
    def land_leased(self, piece: int, stream: StreamId) -> None:
        if self.stream.get(piece) != stream:
            with pytest.raises(IllegalTransition):
                self.map.land_leased(piece, stream)
            return
        self.map.land_leased(piece, stream)
        del self.stream[piece]
        self.state[piece] = LANDING

    @precondition(lambda self: LANDING in self.state.values())
    @rule(right=st.booleans(), data=st.data())
    def leave_landing(self, right: bool, data: st.DataObject) -> None:
        piece = data.draw(st.sampled_from([piece for piece, state in self.state.items() if state == LANDING]))
        if right:
            assert self.map.settle(piece) is (piece not in self.doomed)
        else:
            self.map.reject(piece)
        self.state[piece] = THERE if right and piece not in self.doomed else ABSENT
        self.doomed.discard(piece)

    @rule(piece=pieces)
    def nothing_settles_that_does_not_land(self, piece: int) -> None:
        if self.state[piece] != LANDING:
            with pytest.raises(IllegalTransition):
                self.map.settle(piece)

    @rule(wanted=st.integers(0, LAYOUT.all))
    def drop(self, wanted: int) -> None:
        if wanted & ~self.map.there:
            with pytest.raises(IllegalTransition):
                self.map.drop(wanted)
            wanted &= self.map.there
        self.map.drop(wanted)
        self.state.update(dict.fromkeys(iterate(wanted), ABSENT))

    @rule(void=st.integers(0, LAYOUT.all))
    def void(self, void: int) -> None:
        requests = self.map.void(void)
        assert set(requests) == {(piece, peer) for piece in iterate(void) for peer in self.askers[piece]}
        for piece in iterate(void):
            if self.state[piece] == LANDING:
                self.doomed.add(piece)
                continue
            self.askers[piece].clear()
            self.stream.pop(piece, None)
            self.state[piece] = ABSENT

    @invariant()
    def each_piece_is_in_exactly_one_state(self) -> None:
        states = {
            ABSENT: self.map.absent,
            ASKED: self.map.asked,
            LEASED: self.map.leased,
            LANDING: self.map.landing,
            THERE: self.map.there,
        }
        for name, found in states.items():
            assert set(iterate(found)) == {piece for piece, state in self.state.items() if state == name}
        assert sum(found.bit_count() for found in states.values()) == LAYOUT.count

    @invariant()
    def counts_are_what_the_map_says(self) -> None:
        loads = Counter(peer for askers in self.askers.values() for peer in askers)
        assert all(self.requests.load(peer) == loads[peer] for peer in PEERS)
        assert self.requests.count == loads.total()
        for stream in STREAMS:
            assert set(iterate(self.map.leased_to(stream))) == {p for p, s in self.stream.items() if s == stream}


Pieces.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestPieces = Pieces.TestCase
