"""What a stranger, or one member of the cluster that is against all others, can send."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import aiohttp

from bench.daemons import free_ports
from peer import wire
from peer.wire import VERSION
from shoal.digest import Digest
from shoal.messages import InvalidMessage
from shoal.pieces import PIECE_DIGEST_SIZE, PieceLayout, to_bitfield
from supernode import protocol
from tests.faults.clients import Image
from tests.faults.members import LOOPBACK, push_layers
from tests.faults.run import Run
from tests.faults.suite import fault
from tests.faults.world import MIB, Shape
from tests.world.swarm import UPSTREAM

_CLOSED = Shape(is_closed=True)
_MANY_CONNECTIONS = 1060
_MANY_TAGS = 100_000
_MEMORY_OF_TAGS = 100 * MIB
_SPEAK_SECONDS = 30.0


def _speak(run: Run, messages: Sequence[protocol.FromPeer], seconds: float = 0.0) -> bool:
    """Say all this on a control connection, and hold it for some seconds; returns whether one was welcome there."""
    return asyncio.run(_converse(run.world.supernode.port, messages, seconds))


async def _converse(port: int, messages: Sequence[protocol.FromPeer], seconds: float) -> bool:
    url = f"http://127.0.0.1:{port}{protocol.PATH}"
    (own,) = free_ports(1)
    with contextlib.suppress(aiohttp.ClientError, ConnectionError, InvalidMessage, TimeoutError):
        async with (
            asyncio.timeout(_SPEAK_SECONDS),
            aiohttp.ClientSession() as session,
            session.ws_connect(url, max_msg_size=0) as channel,
        ):
            hello = protocol.Hello(protocol.VERSION, secrets.token_hex(16), own, host="127.0.0.1")
            await channel.send_bytes(protocol.from_peer.encode(hello))
            answer = await channel.receive(5.0)
            if answer.type is not aiohttp.WSMsgType.BINARY:
                return False
            if not isinstance(protocol.from_supernode.decode(answer.data), protocol.Welcome):
                return False
            for message in messages:
                await channel.send_bytes(protocol.from_peer.encode(message))
            await asyncio.sleep(seconds)
            return True
    return False


def _false_tag(run: Run, image: Image) -> protocol.Publish:
    """That the image's tag stands for another manifest, which there is."""
    false = run.world.push(run.rng, 1000)
    size = len(run.world.scripted.contents[false.digest])
    media_type = "application/vnd.oci.image.manifest.v1+json"
    return protocol.Publish(UPSTREAM, image.repository, "latest", "manifests", false.digest, size, media_type)


@fault(_CLOSED)
def stranger_publishes_a_tag(run: Run) -> None:
    """Without the secret nothing is heard of him."""
    push_layers(run, MIB, 2 * MIB)
    welcome = _speak(run, [_false_tag(run, run.image)])
    run.expect(not welcome, "a stranger is not welcome")
    run.pull()


@fault(LOOPBACK)
def member_publishes_a_tag(run: Run) -> None:
    """He is asked, since he was the first to ask, and tells a lie: nobody is given what he says for long."""
    push_layers(run, MIB, 2 * MIB)
    image = run.image
    resolve = protocol.Resolve(1, UPSTREAM, image.repository, "latest", "manifests")
    _speak(run, [resolve, _false_tag(run, image)], seconds=3.0)
    run.image = image
    run.pull()


@fault(LOOPBACK)
def member_says_that_a_blob_is_corrupt(run: Run) -> None:
    """Again and again: bodies are not cut for it, and nothing leaves the origin again."""
    push_layers(run, 3 * MIB, 6 * MIB)
    run.pull()
    run.wait_for_progress(run.rng.uniform(0.05, 0.5))
    layer = run.image.largest
    for _ in range(3):
        _speak(run, [protocol.Corrupt(layer, run.image.sizes[layer])])
    run.wait()
    egress = run.world.scripted.sent[layer] / run.image.sizes[layer]
    run.note(f"egress {egress:.2f}")
    run.expect(egress < 1.3, f"{egress:.2f} copies have left the origin")


@fault(LOOPBACK)
def member_tells_a_false_table(run: Run) -> None:
    """Of a blob that he says he has: honest peers are not shunned for it, and the blob comes all the same."""
    push_layers(run, 3 * MIB, 6 * MIB)
    layer = run.image.largest
    size = run.image.sizes[layer]
    count = PieceLayout.of(size).count
    nonsense = secrets.token_bytes(count * PIECE_DIGEST_SIZE)
    table = protocol.Table(layer, size, to_bitfield((1 << count) - 1, count), nonsense)
    _speak(run, [protocol.Announce([protocol.Held(layer, size)]), table], seconds=0.2)
    run.pull()
    run.wait()
    egress = run.world.scripted.sent[layer] / size
    run.note(f"egress {egress:.2f}")
    run.expect(egress < 1.3, f"{egress:.2f} copies have left the origin")


@fault(LOOPBACK, runs=1, short_runs=0)
def member_makes_up_tags(run: Run) -> None:
    """As many as he likes: the supernode keeps a bounded number."""
    tracker = run.world.tracker.daemon
    assert tracker is not None
    before = tracker.resident_bytes()
    false = Digest.of(b"nothing")
    publishes = [
        protocol.Publish(UPSTREAM, f"library/made-up{number}", "latest", "manifests", false, 7, "application/json")
        for number in range(_MANY_TAGS)
    ]
    run.expect(_speak(run, publishes, seconds=1.0), "all is taken")
    grown = tracker.resident_bytes() - before
    run.note(f"{grown / MIB:.0f} MiB for {_MANY_TAGS} tags")
    run.expect(grown < _MEMORY_OF_TAGS, f"{grown / MIB:.0f} MiB are kept for {_MANY_TAGS} tags")
    push_layers(run)
    run.pull()


@contextlib.contextmanager
def _connections(port: int, count: int) -> Iterator[None]:
    """To a port, from many addresses, as far as they are taken."""
    with ExitStack() as stack:
        for number in range(count):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.bind((f"127.0.2.{1 + number % 250}", 0))
            client.connect_ex(("127.0.0.1", port))
        yield


@fault(LOOPBACK)
def peer_port_is_flooded(run: Run) -> None:
    """With connections that say nothing: the node stays in the swarm."""
    push_layers(run)
    node = run.rng.choice(run.world.nodes)
    with _connections(node.peer_port, _MANY_CONNECTIONS):
        run.pull()
        run.wait()


@fault(_CLOSED)
def stranger_asks_for_a_piece(run: Run) -> None:
    """And gets none, whatever he knows of digests."""
    push_layers(run, MIB, 2 * MIB)
    run.pull()
    run.wait()
    layer = run.image.largest
    size = run.image.sizes[layer]
    for node in run.world.nodes:
        with socket.create_connection(("127.0.0.1", node.peer_port), 5.0) as stranger:
            for message in (
                wire.Hello(VERSION, secrets.token_hex(16)),
                wire.Join([wire.Joined(layer, size)]),
                wire.Request(layer, size, 0),
            ):
                with contextlib.suppress(ConnectionError):
                    stranger.sendall(wire.frame(message))
            run.expect(_received(stranger) < 4096, "a stranger gets no piece")


def _received(stranger: socket.socket) -> int:
    """Bytes that come until the other side closes, or says nothing for a second."""
    stranger.settimeout(1.0)
    count = 0
    with contextlib.suppress(OSError):
        while data := stranger.recv(1 << 16):
            count += len(data)
    return count


@fault(Shape(nodes=2, descriptors=256), runs=2, short_runs=0)
def image_of_more_layers_than_descriptors(run: Run) -> None:
    """Each layer comes once, and what was open is closed."""
    run.push(*(70_000 + number for number in range(400)))
    run.pull()
    run.wait()
    sent = run.world.scripted.sent
    twice = [digest for digest, size in run.image.sizes.items() if sent[digest] > size]
    run.expect(not twice, f"{len(twice)} layers have left the origin twice")


@fault(Shape(nodes=1, descriptors=1024), runs=1, short_runs=0)
def image_of_four_thousand_layers(run: Run) -> None:
    """At the usual limit of descriptors."""
    run.push(*(1_000 + number for number in range(4000)))
    run.pull()
    run.wait()


@fault(Shape(nodes=1, descriptors=1024), runs=1, short_runs=0)
def many_pulls_of_many_layers(run: Run) -> None:
    """Fourteen at a time, of ninety layers each."""
    for _ in range(14):
        run.push(*(run.rng.randint(20_000, 100_000) for _ in range(90)))
        run.pull()
    run.wait()
