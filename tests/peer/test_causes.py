"""What a reader waits for, as the machine shows it from the first moment to the last."""

from __future__ import annotations

from peer import wire
from peer.account import Cause
from peer.causes import Causes
from peer.commands import Send
from peer.origin import OriginUnavailable
from supernode import protocol
from tests.peer.test_machine import HERE, KEY, A, World


class Looked:
    """A world, and the cause of a wait in it."""

    def __init__(self, *, supernode: bool = True, connected: bool = True) -> None:
        self.world = World(supernode=supernode, connected=connected)
        self.stream = Cause.ORIGIN_ANSWER
        self.limited = False
        self.causes = Causes(self.world.machine, lambda _: self.stream, lambda: self.limited, supernode)
        self.world.open()
        self.world.collect()

    def cause(self, piece: int = 0) -> Cause:
        return self.causes.of(KEY, piece, self.world.now)


def test_a_supernode_is_waited_for_before_it_is_there_and_before_it_answers() -> None:
    looked = Looked(connected=False)
    assert looked.cause() is Cause.SUPERNODE_GONE
    looked.world.machine.joined(5.0, looked.world.now)
    assert looked.cause() is Cause.HANDOUT
    looked.world.hear(protocol.Handout(*KEY, []))
    assert looked.cause() is Cause.LEASE


def test_neighbours_are_waited_for_in_turn() -> None:
    looked = Looked()
    world = looked.world
    world.hear(protocol.Handout(*KEY, [protocol.Neighbour(A, "host", 1)]))
    assert looked.cause() is Cause.NEIGHBOUR
    world.meet(A, have=2)
    assert looked.cause(0) is Cause.ELSEWHERE
    assert looked.cause(1) is Cause.HANDOUT  # nobody has told by what the piece is checked
    world.table()
    (request,) = [each.message for each in world.look(Send) if isinstance(each.message, wire.Request)]
    assert looked.cause(request.piece) is Cause.PEERS
    looked.limited = True
    assert looked.cause(request.piece) is Cause.LIMIT
    looked.limited = False
    world.now += 1.0
    assert looked.cause(request.piece) is Cause.NEIGHBOUR_SILENT
    world.machine.said(A, wire.Busy(*KEY, request.piece), world.now)
    world.collect()
    assert looked.cause(request.piece) is Cause.NEIGHBOUR_BUSY


def test_an_origin_is_waited_for_as_its_stream_says() -> None:
    looked = Looked(supernode=False)
    world = looked.world
    assert looked.cause() is Cause.ORIGIN_ANSWER
    looked.stream = Cause.ORIGIN
    assert looked.cause() is Cause.ORIGIN
    world.now += 1.0
    assert looked.cause() is Cause.ORIGIN_STALLED


def test_a_stream_that_has_failed_is_waited_for_until_it_is_opened_again() -> None:
    looked = Looked(supernode=False)
    world = looked.world
    (stream,) = world.machine.sourcing.streams
    world.machine.fetch_ended(stream, OriginUnavailable("broke off"), world.now)
    assert looked.cause() is Cause.ORIGIN_FAILED
    world.machine.sought[KEY].places[HERE].error = OriginUnavailable("429", after=5.0)
    assert looked.cause() is Cause.RATE_LIMITED


def test_an_origin_that_others_have_met_at_its_limit_is_known() -> None:
    looked = Looked()
    looked.world.hear(protocol.Handout(*KEY, []))
    looked.causes.is_quiet = lambda registry: registry == HERE.registry
    assert looked.cause() is Cause.RATE_LIMITED


def test_what_is_there_is_held_until_the_whole_is_right() -> None:
    looked = Looked(supernode=False)
    world = looked.world
    (stream,) = world.machine.sourcing.streams
    world.machine.sourcing.fetched(stream, 0, bytearray())
    assert looked.cause() is Cause.DISK
    world.machine.landed(KEY, 0, b"x" * 16, stream, world.now)
    assert looked.cause() is Cause.VERIFYING
