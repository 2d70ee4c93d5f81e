"""Peers of clusters with a secret or certificates: members meet and exchange pieces, nobody else is let in."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from peer import wire
from peer.connection import Span
from peer.neighbours import MAX_STRANGERS_OF_ADDRESS, Neighbours
from shoal.cluster import ClusterSettings
from shoal.digest import Digest
from shoal.membership import Membership
from supernode.protocol import PeerId
from tests.world.certificates import Authority
from tests.world.turns import later

ME, OTHER = PeerId(32 * "b"), PeerId(32 * "c")
SECRET, ANOTHER = "correct horse battery", "incorrect horse battery"
DIGEST, SIZE = Digest.of(b"blob"), 3_000_000
PATIENCE = 5.0


class Told:
    """A handler that keeps what it is told."""

    def __init__(self) -> None:
        self.arrivals: asyncio.Queue[PeerId] = asyncio.Queue()
        self.events: asyncio.Queue[wire.Event] = asyncio.Queue()
        self.failures: asyncio.Queue[PeerId] = asyncio.Queue()

    def arrived(self, peer: PeerId) -> None:
        self.arrivals.put_nowait(peer)

    def gone(self, peer: PeerId, reason: str) -> None:
        pass

    def unreachable(self, peer: PeerId) -> None:
        self.failures.put_nowait(peer)

    def said(self, peer: PeerId, event: wire.Event) -> None:
        self.events.put_nowait(event)

    def accept(self, peer: PeerId, piece: wire.Piece) -> bytearray | None:
        return bytearray(piece.length)


@asynccontextmanager
async def running(settings: ClusterSettings, peer: PeerId) -> AsyncIterator[tuple[Neighbours, Told]]:
    told = Told()
    async with Neighbours(peer, "127.0.0.1", 0, told, Membership(settings)) as neighbours:
        yield neighbours, told


@pytest.fixture(params=["open", "secret", "certificates"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ClusterSettings, ClusterSettings]:
    """The settings of two members."""
    if request.param == "open":
        return ClusterSettings(), ClusterSettings()
    if request.param == "secret":
        return ClusterSettings(secret=SECRET), ClusterSettings(secret=SECRET)
    authority = Authority(tmp_path)
    return authority.members("one.test"), authority.members("two.test")


async def test_members_exchange_pieces_and_messages_both_ways_at_once(
    cluster: tuple[ClusterSettings, ClusterSettings],
) -> None:
    content = random.Random(1).randbytes(SIZE)
    async with running(cluster[0], ME) as (mine, here), running(cluster[1], OTHER) as (theirs, there):
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            mine.dial(OTHER, "127.0.0.1", theirs.port)
            assert await asyncio.wait_for(here.arrivals.get(), PATIENCE) == OTHER
            assert await asyncio.wait_for(there.arrivals.get(), PATIENCE) == ME
            for piece in range(4):
                for sender, to in ((mine, OTHER), (theirs, ME)):
                    message = wire.Piece(DIGEST, SIZE, piece, SIZE)
                    sender.send_piece(to, Span(message, os.dup(file.fileno()), 0, lambda _: None, 0.0, later(0.0)))
                    sender.send([to], wire.Request(DIGEST, SIZE, piece))
            for told in (here, there):
                events = [await asyncio.wait_for(told.events.get(), PATIENCE) for _ in range(8)]
                pieces = [event for event in events if isinstance(event, wire.PieceReceived)]
                assert [event.message.piece for event in pieces] == list(range(4))
                assert all(event.buffer is not None and bytes(event.buffer) == content for event in pieces)


async def test_a_secret_is_replaced_node_by_node(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.write_text(f"{ANOTHER}\n\n{SECRET}\n")
    both, old = ClusterSettings(secret_file=str(file)), ClusterSettings(secret=SECRET)
    async with running(both, ME) as (mine, _), running(old, OTHER) as (theirs, there):
        theirs.dial(ME, "127.0.0.1", mine.port)
        assert await asyncio.wait_for(there.arrivals.get(), PATIENCE) == ME


@pytest.mark.parametrize("mine", ["open", "secret", "another secret", "certificate", "another authority"])
@pytest.mark.parametrize("theirs", ["secret", "certificate"])
async def test_others_are_not_let_in_and_both_sides_say_so(mine: str, theirs: str, tmp_path: Path) -> None:
    if mine == theirs:
        return
    settings = {
        "open": ClusterSettings(),
        "secret": ClusterSettings(secret=SECRET),
        "another secret": ClusterSettings(secret=ANOTHER),
        "certificate": Authority(tmp_path / "one").members("one.test"),
        "another authority": Authority(tmp_path / "two").members("two.test"),
    }
    for caller, callee in ((mine, theirs), (theirs, mine)):
        with capture_logs() as logs:
            async with running(settings[caller], ME) as (one, here), running(settings[callee], OTHER) as (two, there):
                one.dial(OTHER, "127.0.0.1", two.port)
                assert await asyncio.wait_for(here.failures.get(), 2 * PATIENCE) == OTHER
                assert not one.all
                assert not two.all
                assert here.arrivals.empty()
                assert there.arrivals.empty()
        told = [entry for entry in logs if entry["event"].startswith(("stranger.", "neighbour."))]
        assert len(told) == 2, told
        assert SECRET not in str(logs)


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(4), wire.frame(wire.Hello(2, 32 * "a"))])
async def test_whoever_is_no_member_is_sent_nothing_made_with_the_secret(first: bytes) -> None:
    async with running(ClusterSettings(secret=SECRET), ME) as (mine, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", mine.port)
        writer.write(first)
        writer.write_eof()
        try:
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        except ConnectionResetError:
            pass
        writer.close()


async def test_a_thousand_strangers_keep_no_member_out(cluster: tuple[ClusterSettings, ClusterSettings]) -> None:
    async with running(cluster[0], ME) as (mine, _), running(cluster[1], OTHER) as (theirs, there):
        with ExitStack() as stack:
            for _ in range(1060):
                stranger = stack.enter_context(socket.socket())
                stranger.setblocking(False)
                stranger.connect_ex(("127.0.0.1", mine.port))
                await asyncio.sleep(0)
            assert len(mine._waiting) <= MAX_STRANGERS_OF_ADDRESS
            theirs.dial(ME, "127.0.0.1", mine.port)
            assert await asyncio.wait_for(there.arrivals.get(), PATIENCE) == ME


async def test_only_tls_1_3_is_spoken(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    made = authority.issue("one.test")
    async with running(authority.members("two.test"), ME) as (mine, _):
        context = ssl.create_default_context(cafile=str(authority.file))
        context.load_cert_chain(made.certificate_file, made.key_file)
        context.check_hostname = False
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.wait_for(asyncio.open_connection("127.0.0.1", mine.port, ssl=context), PATIENCE)
