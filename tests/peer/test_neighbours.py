"""The connections of one peer, with neighbours that are bare sockets or other peers."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

import pytest
from structlog.testing import capture_logs

from peer import neighbours as module
from peer import wire
from peer.connection import Span
from peer.neighbours import MAX_SHUNNED, Neighbours, Shunned
from shoal.digest import Digest
from shoal.membership import Membership
from shoal.messages import InvalidMessage
from supernode.protocol import PeerId
from tests.world.turns import later

ME, OTHER, THIRD = PeerId(32 * "b"), PeerId(32 * "c"), PeerId(32 * "d")
FIRST = PeerId(32 * "a")
DIGEST = Digest.of(b"blob")
SIZE = 10
TOLD_LATER = "a call of Neighbours told the handler something"


class Engine:
    """A handler that keeps what it is told in order, and does what a test wants it to do at an event."""

    def __init__(self) -> None:
        self.told: list[tuple[str, PeerId]] = []
        self.events: asyncio.Queue[wire.Event] = asyncio.Queue()
        self.changed = asyncio.Event()
        self.reactions: dict[str, Callable[[PeerId], None]] = {}
        self.is_inside = False

    def arrived(self, peer: PeerId) -> None:
        self._note("arrived", peer)

    def gone(self, peer: PeerId, reason: str) -> None:
        self._note("gone", peer)

    def unreachable(self, peer: PeerId) -> None:
        self._note("unreachable", peer)

    def said(self, peer: PeerId, event: wire.Event) -> None:
        self.events.put_nowait(event)
        self._note("said", peer)

    def accept(self, peer: PeerId, piece: wire.Piece) -> bytearray | None:
        return bytearray(piece.length)

    def _note(self, what: str, peer: PeerId) -> None:
        assert not self.is_inside, TOLD_LATER
        self.is_inside = True
        try:
            self.told.append((what, peer))
            self.changed.set()
            reaction = self.reactions.get(what)
            if reaction is not None:
                reaction(peer)
        finally:
            self.is_inside = False

    async def until(self, *expected: tuple[str, PeerId]) -> None:
        """Wait until just these things have been told."""
        async with asyncio.timeout(5):
            while len(self.told) < len(expected):
                self.changed.clear()
                await self.changed.wait()
        assert self.told == list(expected)


class Stranger:
    """A bare connection to a peer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *messages: wire.Kinds) -> None:
        self.writer.write(b"".join(map(wire.frame, messages)))

    async def message(self) -> wire.Kinds:
        async with asyncio.timeout(5):
            (length,) = struct.unpack(">I", await self.reader.readexactly(4))
            return wire.codec.decode(await self.reader.readexactly(length))

    async def is_closed(self) -> bool:
        async with asyncio.timeout(5):
            try:
                return await self.reader.read(1) == b""
            except ConnectionResetError:
                return True


@asynccontextmanager
async def running(peer: PeerId = ME, **limits: int) -> AsyncIterator[tuple[Neighbours, Engine]]:
    engine = Engine()
    async with Neighbours(peer, "127.0.0.1", 0, engine, Membership(), None, **limits) as neighbours:
        yield neighbours, engine


@asynccontextmanager
async def stranger(neighbours: Neighbours, source: str = "127.0.0.1") -> AsyncIterator[Stranger]:
    reader, writer = await asyncio.open_connection("127.0.0.1", neighbours.port, local_addr=(source, 0))
    try:
        yield Stranger(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def neighbour(neighbours: Neighbours, peer: PeerId = OTHER) -> AsyncIterator[Stranger]:
    """A bare connection that has exchanged greetings."""
    async with stranger(neighbours) as other:
        other.send(wire.Hello(wire.VERSION, peer))
        assert await other.message() == wire.Hello(wire.VERSION, ME)
        yield other


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds that nothing tells of, looking at each turn of the loop."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


# --- coming and going -------------------------------------------------------------------------------------------------


async def test_two_peers_meet_speak_and_part() -> None:
    async with running(ME) as (mine, here), running(OTHER) as (theirs, there):
        mine.dial(OTHER, "127.0.0.1", theirs.port)
        mine.dial(OTHER, "127.0.0.1", theirs.port)
        await here.until(("arrived", OTHER))
        await there.until(("arrived", ME))
        before = mine.heard_at(OTHER)
        theirs.send([ME, THIRD], wire.Ready())
        await here.until(("arrived", OTHER), ("said", OTHER))
        assert before is not None
        assert (mine.heard_at(OTHER) or 0.0) > before
        assert mine.heard_at(THIRD) is None
        mine.hang_up(OTHER, "enough")
        assert mine.all == {}
        assert len(here.told) == 2, TOLD_LATER
        await here.until(("arrived", OTHER), ("said", OTHER), ("gone", OTHER))
        await there.until(("arrived", ME), ("gone", ME))
        assert mine.reachability.words(OTHER) == f"127.0.0.1:{theirs.port}"
        assert theirs.reachability.words(ME) == "127.0.0.1 (bbbbbbbb)"
        assert mine.reachability.words(THIRD) == THIRD


async def test_two_that_dial_each_other_end_with_one_connection() -> None:
    async with running(ME) as (mine, here), running(OTHER) as (theirs, there):
        mine.dial(OTHER, "127.0.0.1", theirs.port)
        theirs.dial(ME, "127.0.0.1", mine.port)
        for _ in range(3):
            theirs.send([ME], wire.Ready())
            await asyncio.sleep(0.02)
        assert list(mine.all) == [OTHER]
        assert list(theirs.all) == [ME]
        for engine in (here, there):
            comings = [what for what, _ in engine.told if what != "said"]
            assert comings in (["arrived"], ["arrived", "gone", "arrived"])
        theirs.send([ME], wire.Request(DIGEST, SIZE, 7))
        while await asyncio.wait_for(here.events.get(), 5) != wire.Request(DIGEST, SIZE, 7):
            pass


async def test_a_newer_connection_of_a_peer_arrives_after_the_older_one_has_gone() -> None:
    async with running() as (mine, engine), neighbour(mine, FIRST), neighbour(mine, FIRST):
        await engine.until(("arrived", FIRST), ("gone", FIRST), ("arrived", FIRST))
        assert list(mine.all) == [FIRST]


async def test_a_peer_that_comes_back_before_its_going_was_told_stays() -> None:
    async with running() as (mine, engine), neighbour(mine, OTHER), stranger(mine):
        await engine.until(("arrived", OTHER))
        first = mine.all[OTHER]
        await until(lambda: bool(mine._strangers))
        (newer,) = mine._strangers
        mine.hang_up(OTHER, "over")
        mine.received(newer, wire.Hello(wire.VERSION, OTHER))  # as the loop may call before what `hang_up` left to do
        assert engine.told == [("arrived", OTHER), ("gone", OTHER), ("arrived", OTHER)]
        await asyncio.sleep(0)
        assert len(engine.told) == 3
        assert mine.all[OTHER] is newer is not first


async def test_what_is_told_is_never_told_inside_a_call_from_the_handler() -> None:
    """The handler of these tests checks it at each event."""
    async with running() as (mine, engine), neighbour(mine, OTHER) as one, neighbour(mine, THIRD):
        await engine.until(("arrived", OTHER), ("arrived", THIRD))
        released: list[bool] = []

        def hang_up(_: PeerId) -> None:
            mine.send([THIRD], wire.Have(DIGEST, SIZE, [], bytes(200_000)))
            mine.send_piece(THIRD, span(released))
            for peer in (OTHER, THIRD):
                mine.hang_up(peer, "over")
            mine.send_piece(THIRD, span(released))
            mine.dial(FIRST, "127.0.0.1", closed_port())
            assert (mine.all, released) == ({}, [])

        engine.reactions["said"] = hang_up
        one.send(wire.Ready(), wire.Ready())
        await engine.until(
            ("arrived", OTHER),
            ("arrived", THIRD),
            ("said", OTHER),
            ("gone", OTHER),
            ("gone", THIRD),
            ("unreachable", FIRST),
        )
        assert released == [False, False]


def span(released: list[bool]) -> Span:
    return Span(wire.Piece(DIGEST, SIZE, 0, SIZE), -1, 0, released.append, 0.0, later(60.0))


@pytest.mark.parametrize("what", ["arrived", "said"])
async def test_an_error_of_the_handler_ends_the_connection_that_it_came_from_and_no_other(what: str) -> None:
    with capture_logs() as logs:
        async with running() as (mine, engine), neighbour(mine, THIRD) as good:

            def fail(_: PeerId) -> None:
                del engine.reactions[what]
                raise OSError("ours")

            await engine.until(("arrived", THIRD))
            engine.reactions[what] = fail
            async with neighbour(mine, OTHER) as bad:
                bad.send(wire.Ready())
                assert await bad.is_closed()
            good.send(wire.Busy(DIGEST, SIZE, 1))
            while await asyncio.wait_for(engine.events.get(), 5) != wire.Busy(DIGEST, SIZE, 1):
                pass
            assert [told for told in engine.told if told[1] == OTHER and told[0] != "said"] == [
                ("arrived", OTHER),
                ("gone", OTHER),
            ]
    assert "connection.failed" in [entry["event"] for entry in logs]


async def test_an_error_at_a_going_is_logged_and_the_next_goings_are_told() -> None:
    def fail(_: PeerId) -> None:
        raise RuntimeError("ours")

    with capture_logs() as logs:
        async with running() as (mine, engine), neighbour(mine, OTHER), neighbour(mine, THIRD):
            await engine.until(("arrived", OTHER), ("arrived", THIRD))
            engine.reactions["gone"] = fail
            for peer in (OTHER, THIRD):
                mine.hang_up(peer, "over")
            await engine.until(("arrived", OTHER), ("arrived", THIRD), ("gone", OTHER), ("gone", THIRD))
    assert [entry["event"] for entry in logs].count("neighbours.handler_failed") == 2


async def test_a_neighbour_that_breaks_the_protocol_is_gone() -> None:
    async with running() as (mine, engine), neighbour(mine) as other:

        def refuse(_: PeerId) -> None:
            raise InvalidMessage("nonsense")

        engine.reactions["said"] = refuse
        other.send(wire.Ready())
        assert await other.is_closed()
        await engine.until(("arrived", OTHER), ("said", OTHER), ("gone", OTHER))


async def test_on_the_way_out_all_goings_have_been_told() -> None:
    async with AsyncExitStack() as stack:
        async with running() as (mine, engine):
            await stack.enter_async_context(neighbour(mine, OTHER))
            await stack.enter_async_context(neighbour(mine, THIRD))
            await stack.enter_async_context(stranger(mine))
            await engine.until(("arrived", OTHER), ("arrived", THIRD))
        assert sorted(engine.told[2:]) == [("gone", OTHER), ("gone", THIRD)]
        mine.dial(FIRST, "127.0.0.1", closed_port())
        assert not mine._tasks


# --- greetings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        wire.Hello(wire.VERSION - 1, OTHER),
        wire.Hello(wire.VERSION, ME),
        wire.Hello(wire.VERSION, "nobody"),
        wire.Ready(),
        wire.Piece(DIGEST, SIZE, 0, SIZE),
    ],
)
async def test_who_does_not_greet_properly_is_hung_up_on(first: wire.Kinds) -> None:
    async with running() as (mine, engine), stranger(mine) as other:
        other.send(first)
        assert await other.is_closed()
        assert engine.told == []


async def test_what_comes_with_the_greeting_is_heard_however_large() -> None:
    large = wire.Have(DIGEST, SIZE, [], bytes(200_000))
    async with running() as (mine, engine), stranger(mine) as other:
        other.send(wire.Hello(wire.VERSION, OTHER), large, wire.Ready())
        assert await asyncio.wait_for(engine.events.get(), 5) == large
        assert await asyncio.wait_for(engine.events.get(), 5) == wire.Ready()


async def test_a_shunned_peer_is_neither_dialled_nor_let_in() -> None:
    async with running() as (mine, engine), neighbour(mine) as other, stranger(mine) as again:
        mine.hang_up(OTHER, "corrupt", shun=60.0)
        assert await other.is_closed()
        again.send(wire.Hello(wire.VERSION, OTHER))
        assert await again.is_closed()
        assert mine.shuns(OTHER)
        assert not mine.shuns(THIRD)
        mine.dial(OTHER, "127.0.0.1", mine.port)
        await engine.until(("arrived", OTHER), ("gone", OTHER), ("unreachable", OTHER))


def test_shunning_ends_and_is_bounded() -> None:
    shunned = Shunned()
    for number in range(MAX_SHUNNED + 1):
        shunned.add(PeerId(str(number)), until=100.0 + number, now=0.0)
    assert len(shunned) == MAX_SHUNNED
    assert not shunned.holds(PeerId("0"), 50.0), "the one that was next to be free"
    assert shunned.holds(PeerId("1"), 100.5)
    assert not shunned.holds(PeerId("1"), 101.5)
    shunned.add(PeerId("1"), until=20_000.0, now=10_000.0)
    shunned.add(PeerId("1"), until=15_000.0, now=10_000.0)
    assert len(shunned) == 1
    assert shunned.holds(PeerId("1"), 19_000.0)


# --- dialling ---------------------------------------------------------------------------------------------------------


async def test_a_dial_that_fails_is_told_and_may_be_tried_again() -> None:
    async with running() as (mine, engine):
        for _ in range(2):
            mine.dial(OTHER, "127.0.0.1", closed_port())
            await engine.until(("unreachable", OTHER))
            engine.told.clear()


@pytest.mark.parametrize("host", ["a" * 70 + ".invalid", "127.0.0.1"])
async def test_an_unexpected_error_of_a_dial_is_told_as_well(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> socket.socket:
        raise RuntimeError("ours")

    with capture_logs() as logs:
        async with running() as (mine, engine):
            if host == "127.0.0.1":
                monkeypatch.setattr(module, "_connect", broken)
            mine.dial(OTHER, host, 1)
            await engine.until(("unreachable", OTHER))
            assert not mine._dialling
    assert ("neighbours.task_failed" in [entry["event"] for entry in logs]) == (host == "127.0.0.1")


async def test_a_dial_is_over_when_it_is_cancelled() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        for _ in range(2):  # a connection more than it takes is left waiting
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        async with running() as (mine, engine):
            mine.dial(OTHER, *full.getsockname())
            await asyncio.sleep(0.01)
            for task in list(mine._tasks):
                task.cancel()
            await engine.until(("unreachable", OTHER))
            assert not mine._dialling


async def test_a_dial_that_reaches_another_peer_is_one_that_failed() -> None:
    async with running(ME) as (mine, engine), running(OTHER) as (theirs, _):
        mine.dial(THIRD, "127.0.0.1", theirs.port)
        await engine.until(("unreachable", THIRD))
        assert not mine._dialling


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_strangers_are_bounded_in_all_and_for_each_address() -> None:
    async with running(strangers=3, strangers_of_address=2) as (mine, _), AsyncExitStack() as stack:
        sources = ["127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.3"]
        others = [await stack.enter_async_context(stranger(mine, source)) for source in sources]
        assert await others[0].is_closed(), "the oldest of an address with three"
        assert await others[1].is_closed(), "of four in all, the oldest of the address with most"
        for number, peer in [(2, OTHER), (3, THIRD)]:
            others[number].send(wire.Hello(wire.VERSION, peer))
            assert isinstance(await others[number].message(), wire.Hello)
        async with neighbour(mine, FIRST):
            assert len(mine.all) == 3


async def test_a_thousand_strangers_keep_no_neighbour_out() -> None:
    async with running(connections=8) as (mine, _), AsyncExitStack() as stack:
        for _ in range(1060):
            crowd = stack.enter_context(socket.socket())
            crowd.setblocking(False)
            crowd.connect_ex(("127.0.0.1", mine.port))
            await asyncio.sleep(0)
        async with neighbour(mine, OTHER):
            assert list(mine.all) == [OTHER]
        assert len(mine._strangers) <= module.MAX_STRANGERS_OF_ADDRESS


async def test_made_up_peers_of_one_address_leave_places_for_others() -> None:
    async with running(connections=8) as (mine, _), AsyncExitStack() as stack:
        for number in range(2):
            await stack.enter_async_context(neighbour(mine, PeerId(f"{number:032x}")))
        third = await stack.enter_async_context(stranger(mine))
        third.send(wire.Hello(wire.VERSION, OTHER))
        assert await third.is_closed()
        other = await stack.enter_async_context(stranger(mine, "127.0.0.2"))
        other.send(wire.Hello(wire.VERSION, OTHER))
        assert await other.message() == wire.Hello(wire.VERSION, ME)


async def test_nobody_takes_a_neighbours_place_from_another_address() -> None:
    async with running() as (mine, _), neighbour(mine, FIRST), stranger(mine, "127.0.0.2") as other:
        before = mine.all[FIRST]
        other.send(wire.Hello(wire.VERSION, FIRST))
        assert await other.is_closed()
        assert mine.all[FIRST] is before


async def test_many_that_greet_at_once_are_all_let_in() -> None:
    count = 40
    peers = [PeerId(f"{number:032x}") for number in range(count)]
    async with running(strangers_of_address=4) as (mine, engine), AsyncExitStack() as stack:
        dialling = [await stack.enter_async_context(running(peer)) for peer in peers]
        for theirs, _ in dialling:
            theirs.dial(ME, "127.0.0.1", mine.port)
        await until(lambda: len(mine.all) == count)
        assert sorted(engine.told) == [("arrived", peer) for peer in peers]


async def test_connections_are_bounded() -> None:
    async with running(connections=1) as (mine, engine), neighbour(mine), stranger(mine) as second:
        second.send(wire.Hello(wire.VERSION, THIRD))
        assert await second.is_closed()
        mine.dial(THIRD, "127.0.0.1", mine.port)
        await engine.until(("arrived", OTHER), ("unreachable", THIRD))


@pytest.fixture
def few_files() -> Iterator[Callable[[], None]]:
    """Leaves no file descriptors when it is called."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_listening_goes_on_after_file_descriptors_have_run_out(
    few_files: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LISTEN_REST_SECONDS", 0.05)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with capture_logs() as logs:
        async with running() as (mine, _), AsyncExitStack() as stack:
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            few_files()
            client.connect_ex(("127.0.0.1", mine.port))
            await until(lambda: "listener.failed" in [entry["event"] for entry in logs])
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            async with neighbour(mine):
                assert list(mine.all) == [OTHER]


async def test_listening_goes_on_after_an_error_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LISTEN_REST_SECONDS", 0.01)

    def broken(*_: object) -> None:
        raise RuntimeError("ours")

    with capture_logs() as logs:
        async with running() as (mine, _):
            with monkeypatch.context() as patch:
                patch.setattr(module, "Connection", broken)
                async with stranger(mine) as other:
                    assert await other.is_closed()
            async with neighbour(mine):
                assert list(mine.all) == [OTHER]
    assert "listener.failed" in [entry["event"] for entry in logs]


@pytest.mark.parametrize("greets", [False, True])
async def test_connections_with_an_unfinished_message_leave_no_memory_behind(greets: bool) -> None:
    async def round_of(mine: Neighbours) -> int:
        """Returns the bytes that are in use while they are all there."""
        async with AsyncExitStack() as stack:
            for number in range(count):
                other = socket.create_connection(("127.0.0.1", mine.port))
                stack.callback(other.close)
                other.setblocking(False)
                if greets:
                    other.send(wire.frame(wire.Hello(wire.VERSION, f"{number:032x}")))
                await asyncio.sleep(0.001)
                try:
                    other.send(struct.pack(">I", wire.MAX_MESSAGE_SIZE) + bytes(700_000))
                except (BlockingIOError, ConnectionError):
                    pass
            await asyncio.sleep(0.1)
            most = tracemalloc.get_traced_memory()[0]
        await until(lambda: not mine._strangers and not mine._peers)
        await asyncio.sleep(0.05)
        return most

    count = 30
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        async with running(strangers_of_address=count) as (mine, _):
            await round_of(mine)  # what is allocated once
            before = tracemalloc.get_traced_memory()[0]
            most = [await round_of(mine) for _ in range(2)]
            after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert after - before < 500_000
    assert greets or max(most) - before < 500_000
