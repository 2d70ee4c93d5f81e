"""A supernode as a daemon: what its operators reach."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import aiohttp
from prometheus_client import CollectorRegistry

from shoal.cluster import ClusterSettings
from shoal.daemonsettings import OperationsSettings
from supernode import protocol
from supernode.daemon import Supernode
from supernode.settings import SupernodeSettings


def settings_in(folder: Path) -> SupernodeSettings:
    return SupernodeSettings(port=0, operations=OperationsSettings(port=0), state=folder)


def supernode_in(folder: Path) -> Supernode:
    return Supernode(settings_in(folder), ClusterSettings(), CollectorRegistry())


async def test_nodes_are_told_by_name_and_label_as_long_as_they_are_here(tmp_path: Path) -> None:
    async with supernode_in(tmp_path) as supernode, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{supernode.operations.port}/v1/nodes"
        control = f"http://127.0.0.1:{supernode.server.port}{protocol.PATH}"
        async with session.ws_connect(control) as socket:
            labels = MappingProxyType({"rack": "b4"})
            hello = protocol.Hello(
                protocol.VERSION, "a" * 32, 5081, "10.0.0.4", name="four", labels=dict(labels), software="0.1"
            )
            await socket.send_bytes(protocol.from_peer.encode(hello))
            await socket.receive()
            async with session.get(url) as answer:
                (node,) = (await answer.json())["nodes"]
            assert (node["name"], node["labels"], node["version"]) == ("four", labels, "0.1")
            assert (node["host"], node["port"], node["zone"]) == ("10.0.0.4", 5081, "10.0.0")
        while True:
            async with session.get(url) as answer:
                if not (await answer.json())["nodes"]:
                    break


async def test_metrics_and_readiness_are_told_to_operators_and_not_at_the_port_of_peers(tmp_path: Path) -> None:
    async with supernode_in(tmp_path) as supernode, aiohttp.ClientSession() as session:
        for path, status in (("/metrics", 200), ("/readyz", 200), ("/healthz", 200)):
            async with session.get(f"http://127.0.0.1:{supernode.operations.port}{path}") as answer:
                assert answer.status == status
            async with session.get(f"http://127.0.0.1:{supernode.server.port}{path}") as answer:
                assert answer.status == 404


async def test_a_supernode_without_a_disk_leads_its_peers_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with supernode_in(tmp_path / "file" / "state") as supernode:
        url = f"http://127.0.0.1:{supernode.operations.port}/readyz"
        async with aiohttp.request("GET", url) as answer:
            assert answer.status == 200
