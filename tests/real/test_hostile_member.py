"""One member that speaks on the control port alone and lies: about a tag, a table, and a blob that is right."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import aiohttp

from shoal.digest import Digest
from shoal.pieces import PIECE_DIGEST_SIZE, PieceLayout, to_bitfield
from supernode import protocol
from supernode.protocol import FromPeer
from tests.world.client import get
from tests.world.images import random_bytes
from tests.world.nodes import Supernode, wait_until
from tests.world.origin import REPOSITORY, ScriptedOrigin
from tests.world.swarm import pull_all, start_nodes
from tests.world.threads import serve

MIB = 1 << 20
FORGED = Digest.of(b"a manifest of the stranger's own")


class Stranger:
    """Says the same messages again and again, until `stack` ends or it is turned away."""

    def __init__(self, messages: Sequence[FromPeer]) -> None:
        self._messages = messages
        self.rounds = 0

    def start(self, supernode_port: int, stack: ExitStack) -> None:
        """Returns when it has said them once."""

        async def start(inner: AsyncExitStack) -> None:
            inner.push_async_callback(_ended, asyncio.create_task(self._speak(supernode_port)))

        serve(start, stack)
        wait_until(lambda: self.rounds > 0, "the stranger is heard")

    async def _speak(self, supernode_port: int) -> None:
        url = f"http://127.0.0.1:{supernode_port}{protocol.PATH}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
            hello = protocol.Hello(protocol.VERSION, secrets.token_hex(16), 9, host="127.0.0.1", confirms=True)
            await socket.send_bytes(protocol.from_peer.encode(hello))
            assert isinstance(protocol.from_supernode.decode(await socket.receive_bytes()), protocol.Welcome)
            while not socket.closed:
                for message in self._messages:
                    await socket.send_bytes(protocol.from_peer.encode(message))
                self.rounds += 1
                await asyncio.sleep(0.02)


async def _ended(speaking: asyncio.Task[None]) -> None:
    speaking.cancel()
    await asyncio.gather(speaking, return_exceptions=True)


def test_a_stranger_on_the_control_port_changes_no_image_and_slows_no_pull(
    origin: ScriptedOrigin, supernode: Supernode, tmp_path: Path, stack: ExitStack, pool: ThreadPoolExecutor
) -> None:
    layers = [random_bytes(16 * MIB, name) for name in ("undisturbed", "called wrong", "nonsense", "next")]
    digests = [origin.put(layer) for layer in layers]
    right = origin.push(random_bytes(MIB, "tagged"))
    url = origin.start(stack)
    supernode.start(stack)
    place = "docker.io", REPOSITORY, "latest", "manifest"
    with ExitStack() as inner:
        forged = protocol.Publish(*place, FORGED, 500, "application/vnd.oci.image.manifest.v1+json", "anonymous")
        Stranger([protocol.Resolve(1, *place, "anonymous"), forged]).start(supernode.port, inner)
        nodes = start_nodes(4, url, supernode, tmp_path, stack)

        def told() -> list[str]:
            heads = [get(node, f"/v2/{REPOSITORY}/manifests/latest", "HEAD") for node in nodes]
            return [head.headers["docker-content-digest"] for head in heads]

        asked_at = time.monotonic()
        wait_until(lambda: told() == [right] * 4, "all nodes know better")
        assert time.monotonic() - asked_at <= protocol.PROVISIONAL_SECONDS
    assert "members.contradict" in (supernode.folder / "log").read_text()

    layout = PieceLayout.of(len(layers[0]))
    everything = to_bitfield(layout.all, layout.count)
    origin.rate = 8 * MIB
    for place_of, (layer, digest) in enumerate(zip(layers, digests, strict=True)):
        blob = digest, len(layer)
        wants = protocol.Open([protocol.Wanted(*blob, "docker.io", REPOSITORY)])
        nonsense = protocol.Table(*blob, everything, secrets.token_bytes(layout.count * PIECE_DIGEST_SIZE))
        said: list[list[FromPeer]] = [
            [],
            [wants, protocol.Corrupt(*blob)],
            [protocol.Announce([protocol.Held(*blob)]), nonsense],
            [],
        ]
        with ExitStack() as inner:
            if said[place_of]:
                Stranger(said[place_of]).start(supernode.port, inner)
            got = [pull.result() for pull in pull_all(pool, nodes, digest)]
        egress = origin.sent[digest] / len(layer)
        print(
            f"{place_of}: {max(each.seconds for each in got):.1f} s, longest gap "
            f"{max(each.longest_gap for each in got):.1f} s, egress {egress:.2f}"
        )
        assert all(each.brings(layer) for each in got)
        assert max(each.longest_gap for each in got) <= 5
        assert egress <= 1.5
    for node in nodes:
        assert "corrupt piece" not in node.log, "no honest node is shunned"
        assert "Traceback" not in node.log
