"""Preheats over the operations port."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
from prometheus_client import CollectorRegistry

from shoal.cluster import ClusterSettings
from shoal.daemonsettings import OperationsSettings
from supernode import protocol
from supernode.daemon import Supernode
from supernode.preheating.api import _MAX_FOLLOWERS, PREHEATS_PATH
from supernode.settings import SupernodeSettings


async def test_followers_leave_room_for_the_operator(tmp_path: Path) -> None:
    settings = SupernodeSettings(port=0, operations=OperationsSettings(port=0), state=tmp_path)
    async with AsyncExitStack() as stack:
        supernode = await stack.enter_async_context(Supernode(settings, ClusterSettings(), CollectorRegistry()))
        token = (tmp_path / "operator-token").read_text().strip()
        session = await stack.enter_async_context(
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}, connector=aiohttp.TCPConnector(limit=0))
        )
        port = supernode.server.port
        socket = await stack.enter_async_context(session.ws_connect(f"http://127.0.0.1:{port}/v1/control"))
        hello = protocol.Hello(protocol.VERSION, "a" * 32, 5081, preheats=True)
        await socket.send_bytes(protocol.from_peer.encode(hello))
        await socket.receive()
        url = f"http://127.0.0.1:{supernode.operations.port}{PREHEATS_PATH}"
        async with session.post(url, json={"images": ["docker.io/library/a:1"]}) as answer:
            job = (await answer.json())["id"]
        follow = f"{url}/{job}/events"
        for _ in range(_MAX_FOLLOWERS):
            followed = await stack.enter_async_context(session.get(follow))
            assert (await followed.content.readline()).strip() == b"event: progress"
        async with session.get(follow) as answer:
            assert (answer.status, "it goes on" in (await answer.json())["error"]) == (503, True)
        async with session.delete(f"{url}/{job}") as answer:
            assert answer.status == 200
