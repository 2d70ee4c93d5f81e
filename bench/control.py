"""Control messages that one supernode process handles, sent by many simulated peers over raw WebSockets."""

from __future__ import annotations

import asyncio
import base64
import itertools
import statistics
import struct
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import cast

import aiohttp
import click
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from bench.congestion import same_congestion_control
from bench.daemons import Daemon, free_ports, shoal
from bench.options import folder_option, json_option, runs_option, working_folder
from bench.processes import IdleMeter
from bench.result import Check, Result, Series, publish
from shoal.digest import Digest
from shoal.messages import BlobRef
from shoal.pieces import PIECE_DIGEST_SIZE
from supernode import protocol

_BAR = 60_000.0
_CONNECTIONS = (1, 100, 1000)
_LOADED = 100
_SECONDS, _WARM_UP = 4.0, 1.0
_PROBES = 50
_LAYERS, _LAYER_SIZE, _PIECES = 3, 64 << 20, 256
_ANNOUNCES = 24
"""Between opening an image and closing it: a pull of a minute or two."""


@click.command()
@json_option
@runs_option
@folder_option
def command(as_json: bool, runs: int, folder: Path | None) -> None:
    """Messages per second of one supernode, and the time from opening a blob to its handout."""
    rates: list[float] = []
    per_cpu: list[float] = []
    sent: list[float] = []
    idle: list[float] = []
    waits: dict[int, list[float]] = {count: [] for count in _CONNECTIONS}
    with working_folder(folder, 1 << 20) as work, same_congestion_control() as congestion:
        for place in range(runs):
            port, operations = free_ports(2)
            settings = {
                "SHOAL_SUPERNODE__PORT": str(port),
                "SHOAL_SUPERNODE__OPERATIONS__PORT": str(operations),
                "SHOAL_SUPERNODE__STATE": str(work / f"state-{place}"),
                "SHOAL_LOG__LEVEL": "error",
            }
            with shoal("supernode", work / f"{place}.log", settings) as daemon, IdleMeter() as meter:
                daemon.wait_for(port)
                for count in _CONNECTIONS:
                    waits[count].append(uvloop.run(_handout_seconds(port, count)))
                rate, busy, outgoing = uvloop.run(_load(daemon, port, operations))
            rates.append(rate)
            per_cpu.append(busy)
            sent.append(outgoing)
            idle.append(meter.share)
    figures = {
        "messages taken": Series("1/s", rates),
        "messages taken per CPU-second": Series("1/CPU-s", per_cpu),
        "messages sent": Series("1/s", sent),
    } | {f"open to handout, {count} connected": Series("s", found) for count, found in waits.items()}
    checks = [Check("ratio", statistics.median(rates), _BAR, False, "messages taken per second, one process")]
    setting = {"connections": _LOADED, "seconds": _SECONDS, "runs": runs, "announces for each open": _ANNOUNCES}
    result = Result(
        "control", "Control messages of one supernode", checks, {"shoal": figures}, idle, congestion, setting
    )
    publish(result, as_json)


_numbers = itertools.count()
"""No peer comes twice: the supernode would wait for the older connection's farewell."""


class _Peer(asyncio.Protocol):
    """A simulated peer. It sends `batch` again and again while the supernode reads, and answers grants."""

    def __init__(self, number: int, digests: Sequence[Digest]) -> None:
        self._number = number
        self._digests = digests
        self._buffer = bytearray()
        self._transport: asyncio.Transport
        self._upgraded = False
        self._sending = False
        self._batch = b""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.handout: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._transport.set_write_buffer_limits(high=1 << 16)
        key = base64.b64encode(self._number.to_bytes(16, "big")).decode()
        self._transport.write(
            f"GET {protocol.PATH} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )

    def flood(self) -> None:
        """Send the life of a pull over and over, as fast as it is taken."""
        opening = protocol.Open([protocol.Wanted(d, _LAYER_SIZE, "bench.test", "image") for d in self._digests])
        rounds = [_frame(opening)]
        for step in range(1, _ANNOUNCES + 1):
            have = ((1 << step * _PIECES // (_ANNOUNCES + 1)) - 1).to_bytes(_PIECES // 8, "little")
            rounds.append(_frame(protocol.Announce([protocol.Held(d, _LAYER_SIZE, have) for d in self._digests])))
        self._batch = b"".join([*rounds, _frame(protocol.Close([BlobRef(d, _LAYER_SIZE) for d in self._digests]))])
        self._sending = True
        self.resume_writing()

    def pause_writing(self) -> None:
        self._sending = False

    def resume_writing(self) -> None:
        if self._batch and not self._transport.is_closing():
            self._sending = True
            self._transport.write(self._batch)
            if self._sending:
                asyncio.get_running_loop().call_soon(self.resume_writing)

    def ask(self) -> asyncio.Future[None]:
        """Open a blob; done when its handout is here."""
        self.handout = asyncio.get_running_loop().create_future()
        self.send(protocol.Open([protocol.Wanted(self._digests[0], _LAYER_SIZE, "bench.test", "image")]))
        return self.handout

    def send(self, message: protocol.FromPeer) -> None:
        self._transport.write(_frame(message))

    def close(self) -> None:
        self._batch = b""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if b" 101 " not in head:
                self.ready.set_exception(click.ClickException(f"the supernode said {bytes(head[:80])!r}"))
                return
            self._upgraded, self._buffer = True, rest
            self.send(protocol.Hello(protocol.VERSION, f"{self._number:032x}", 1 + self._number))
        while (payload := self._next()) is not None:
            self._take(payload)

    def _next(self) -> bytes | None:
        """The payload of the next frame that is here in full."""
        buffer = self._buffer
        if len(buffer) < 10 and (len(buffer) < 2 or len(buffer) < _header(buffer[1])):
            return None
        start, length = _header(buffer[1]), buffer[1]
        if length >= 126:
            length = int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start + length:
            return None
        payload = bytes(buffer[start : start + length])
        del buffer[: start + length]
        return payload

    def _take(self, payload: bytes) -> None:
        if b"\xa7handout" in payload and self.handout is not None and not self.handout.done():
            self.handout.set_result(None)
        elif b"\xa7welcome" in payload:
            self.ready.set_result(None)
        elif b"\xa5grant" in payload:
            grant = protocol.from_supernode.decode(payload)
            if isinstance(grant, protocol.Grant):
                for index in range(grant.first, grant.first + grant.count):
                    self.send(protocol.Progress(grant.lease, index, bytes(PIECE_DIGEST_SIZE)))


def _header(length: int) -> int:
    return {126: 4, 127: 10}.get(length, 2)


def _frame(message: protocol.FromPeer) -> bytes:
    """One binary frame, masked with zeros, which costs the simulated peers nothing."""
    payload = protocol.from_peer.encode(message)
    short = len(payload) < 126
    length = bytes([0x80 | len(payload)]) if short else struct.pack("!BH", 0x80 | 126, len(payload))
    return b"\x82" + length + bytes(4) + payload


async def _connected(stack: AsyncExitStack, port: int, count: int) -> list[_Peer]:
    digests = [Digest.of(b"%d" % layer) for layer in range(_LAYERS)]
    peers = []
    for _ in range(count):
        made = partial(_Peer, next(_numbers), digests)
        _, peer = await asyncio.get_running_loop().create_connection(made, "127.0.0.1", port)
        stack.callback(peer.close)
        await peer.ready
        peers.append(peer)
    return peers


async def _handout_seconds(port: int, count: int) -> float:
    """Median over some openings, with `count` peers connected and in the swarm."""
    async with AsyncExitStack() as stack:
        peers = await _connected(stack, port, count)
        for peer in peers:
            await peer.ask()
        found = []
        for place in range(_PROBES):
            began = time.monotonic()
            await peers[place % count].ask()
            found.append(time.monotonic() - began)
    return statistics.median(found)


async def _load(daemon: Daemon, port: int, operations: int) -> tuple[float, float, float]:
    """Messages taken per second and per CPU-second, and messages sent per second, under full load, as the operations
    port counts them."""
    async with AsyncExitStack() as stack:
        for peer in await _connected(stack, port, _LOADED):
            peer.flood()
        await asyncio.sleep(_WARM_UP)
        before, busy, began = await _messages(operations), daemon.cpu_seconds(), time.monotonic()
        await asyncio.sleep(_SECONDS)
        after, busy_after, ended = await _messages(operations), daemon.cpu_seconds(), time.monotonic()
    taken, sent = (after[way] - before[way] for way in ("in", "out"))
    return taken / (ended - began), taken / (busy_after - busy), sent / (ended - began)


async def _messages(port: int) -> dict[str, float]:
    async with aiohttp.request("GET", f"http://127.0.0.1:{port}/metrics") as response:
        text = await response.text()
    counted = {"in": 0.0, "out": 0.0}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "shoal_supernode_messages_total":
                counted[sample.labels["direction"]] += sample.value
    return counted
