"""Many members of a cluster, of which each says what a node would say, and fetches nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack

import aiohttp
from aiohttp import ClientWebSocketResponse

from supernode import protocol
from supernode.report import Report, Transfer, Watch, WatchedBlob
from tests.world.nodes import Supernode
from tests.world.threads import serve

ZONES = 5
BLOB, SIZE, PIECES = f"sha256:{'7' * 64}", 64 << 18, 64
_AT_ONCE = 20


def start_crowd(supernode: Supernode, count: int, sharing: int, stack: ExitStack) -> None:
    """Have so many members join, `sharing` of which have or want `BLOB`; returns when all are there."""

    async def start(inner: AsyncExitStack) -> None:
        session = await inner.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        tasks = await inner.enter_async_context(asyncio.TaskGroup())
        inner.callback(lambda: [task.cancel() for task in members])
        members: list[asyncio.Task[None]] = []
        for first in range(0, count, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, count))
            sockets = await asyncio.gather(*(_join(session, supernode, number) for number in numbers))
            for number, socket in zip(numbers, sockets, strict=True):
                members.append(tasks.create_task(_stay(socket, number, shares=number < sharing)))

    serve(start, stack)


async def _join(session: aiohttp.ClientSession, supernode: Supernode, number: int) -> ClientWebSocketResponse:
    socket = await session.ws_connect(f"http://{supernode.address}:{supernode.port}{protocol.PATH}")
    zone = f"zone-{number % ZONES}"
    hello = protocol.Hello(
        protocol.VERSION,
        _peer(number),
        5081,
        host=f"10.0.{number // 250}.{number % 250}",
        zone=zone,
        reports=True,
        name=f"node-{number:04}",
        labels={"rack": f"r{number % 40}"},
        software="0.1.0",
    )
    await socket.send_bytes(protocol.from_peer.encode(hello))
    await socket.receive()
    return socket


async def _stay(socket: ClientWebSocketResponse, number: int, *, shares: bool) -> None:
    """Announce, and report as often as is asked for; each one has one piece more than the one before."""
    have = ((1 << number % PIECES) - 1).to_bytes(PIECES // 8, "little")
    interval, told = 60.0, 0
    while not socket.closed:
        blobs = [protocol.Held(BLOB, SIZE, have)] if shares and number % PIECES else []
        await socket.send_bytes(protocol.from_peer.encode(protocol.Announce(blobs)))
        told += 1
        source = Transfer(_peer(number + 1), is_origin=False, rate=1 << 20)
        watched = [WatchedBlob(BLOB, SIZE, have, [source])] if shares else []
        served = (number + 1) * (told << 20)
        report = Report(float(told), served_peers=served, peers_in=served, stored=number << 20, watched=watched)
        await socket.send_bytes(protocol.from_peer.encode(report))
        try:
            async with asyncio.timeout(min(interval, 4.0)):
                while True:
                    message = await socket.receive()
                    if message.type is not aiohttp.WSMsgType.BINARY:
                        return
                    heard = protocol.from_supernode.decode(message.data)
                    if isinstance(heard, Watch):
                        interval = heard.interval
        except TimeoutError:
            continue


def _peer(number: int) -> str:
    return f"{number:032x}"
