"""What a supernode tells of limits, and to whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from shoal.cluster import ClusterSettings
from shoal.daemonsettings import OperationsSettings
from shoal.limits import LIMITS_PATH, LimitSettings
from shoal.messages import InvalidMessage
from supernode import protocol
from supernode.client import ControlClient
from supernode.daemon import Supernode
from supernode.settings import SupernodeSettings

MB = 1e6


def supernode_in(folder: Path, limits: LimitSettings) -> Supernode:
    settings = SupernodeSettings(port=0, operations=OperationsSettings(port=0), state=folder, limits=limits)
    return Supernode(settings, ClusterSettings(), CollectorRegistry())


@asynccontextmanager
async def peer_of(supernode: Supernode, *, is_limited: bool) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """One that has been welcomed."""
    url = f"http://127.0.0.1:{supernode.server.port}{protocol.PATH}"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        hello = protocol.Hello(protocol.VERSION, ("a" if is_limited else "b") * 32, 5081, is_limited=is_limited)
        await socket.send_bytes(protocol.from_peer.encode(hello))
        assert isinstance(await heard(socket), protocol.Welcome)
        yield socket


async def heard(socket: aiohttp.ClientWebSocketResponse) -> protocol.FromSupernode:
    async with asyncio.timeout(5):
        return protocol.from_supernode.decode((await socket.receive()).data)


async def order(supernode: Supernode, folder: Path, traffic: str, rate: str) -> tuple[int, dict[str, object]]:
    token = (folder / "operator-token").read_text().strip()
    url = f"http://127.0.0.1:{supernode.operations.port}{LIMITS_PATH}"
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json={"traffic": traffic, "rate": rate}, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


async def test_peers_are_told_the_clusters_limits_when_they_come_and_when_these_change(tmp_path: Path) -> None:
    async with (
        supernode_in(tmp_path, LimitSettings(upload=2 * MB)) as supernode,
        peer_of(supernode, is_limited=True) as socket,
    ):
        assert await heard(socket) == protocol.Limits(upload=2 * MB)
        status, answer = await order(supernode, tmp_path, "origin", "1MB/s")
        assert status == 200
        assert answer["limits"]["origin"] == {"bytes_per_second": 1 * MB, "set_by": "order"}  # type: ignore[index]
        assert await heard(socket) == protocol.Limits(upload=2 * MB, origin=1 * MB)
        await order(supernode, tmp_path, "origin", "default")
        assert await heard(socket) == protocol.Limits(upload=2 * MB)


async def test_a_peer_of_the_version_before_hears_nothing_that_it_would_not_understand(tmp_path: Path) -> None:
    async with (
        supernode_in(tmp_path, LimitSettings(upload=2 * MB)) as supernode,
        peer_of(supernode, is_limited=False) as socket,
    ):
        await order(supernode, tmp_path, "origin", "1MB/s")
        await socket.send_bytes(protocol.from_peer.encode(protocol.Probe(7)))
        assert isinstance(await heard(socket), protocol.Probed)


async def test_what_is_no_limit_is_refused_in_words(tmp_path: Path) -> None:
    async with supernode_in(tmp_path, LimitSettings()) as supernode:
        status, answer = await order(supernode, tmp_path, "origin", "much")
        assert status == 409
        assert "'much' is no limit (allowed: a rate such as 50Mbit/s or 10MiB/s, or none or default)" in answer["error"]  # type: ignore[operator]


@pytest.mark.parametrize("rate", ["131kB/s", "none", "1000TB/s"])
async def test_each_limit_that_is_taken_can_be_told(tmp_path: Path, rate: str) -> None:
    async with supernode_in(tmp_path, LimitSettings()) as supernode, peer_of(supernode, is_limited=True) as socket:
        assert (await order(supernode, tmp_path, "origin", rate))[0] == 200
        assert isinstance(await heard(socket), protocol.Limits)
        assert (await order(supernode, tmp_path, "origin", "1001TB/s"))[0] == 409


@pytest.mark.parametrize("message", [{"t": "limits", "upload": -1.0}, {"t": "limits", "upload": "fast"}])
def test_limits_that_are_none_are_no_message(message: dict[str, object]) -> None:
    with pytest.raises(InvalidMessage):
        protocol.from_supernode.decode(msgspec.msgpack.encode(message))


async def test_limits_under_which_nothing_would_work_are_not_taken_from_a_supernode() -> None:
    client = ControlClient("http://127.0.0.1:1")
    taken: list[LimitSettings] = []
    client.limited = taken.append
    client._limited(protocol.Limits(upload=1.0))
    client._limited(protocol.Limits(upload=2 * MB))
    assert taken == [LimitSettings(upload=2 * MB)]
