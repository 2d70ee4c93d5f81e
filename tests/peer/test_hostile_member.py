"""One hostile member of a simulated cluster: whatever it does, all others end with the right blob in bounded time."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from bench.simulation import LATENCY, Peer, Simulation
from peer import wire
from peer.commands import Command, Dial, Discard, HangUp, Land, Send, TellTable
from shoal.descriptor import BlobKey
from shoal.messages import BlobRef, InvalidMessage
from shoal.pieces import PIECE_DIGEST_SIZE, leading_run, to_bitfield
from supernode import protocol
from supernode.protocol import FromPeer, PeerId

MB = 1_000_000
RATE = 6.25 * MB
MOST_EGRESS = 3.0
"""Times an image leaves the origin at most, what the hostile member itself takes among it."""
WRONG = b"\xee" * PIECE_DIGEST_SIZE


def right(piece: int) -> bytes:
    """The digest of a piece, which stands for its content in this world."""
    return piece.to_bytes(PIECE_DIGEST_SIZE, "big")


class Besieged(Simulation):
    """Pieces have content here, and the first peer is hostile: an honest machine whose words and pieces are changed.

    `attack` is called when the simulation begins and says the rest.
    """

    def __init__(
        self,
        seed: int,
        attack: Callable[[Besieged], None],
        *,
        honest: int = 4,
        lies_about: Callable[[int], bool] = lambda piece: False,
        serves: bool = True,
        size: int = 16 * MB,
        layers: int = 1,
    ) -> None:
        super().__init__(size, [RATE] * (honest + 1), RATE, seed, layers=layers)
        self.attack, self.lies_about, self.serves = attack, lies_about, serves
        self.hostile, *self.honest = self._peers.values()
        self.content: dict[tuple[PeerId, BlobKey], dict[int, bytes]] = {}
        self.shunned: list[tuple[PeerId, PeerId]] = []
        self.excluded: set[PeerId] = set()
        self.last: dict[tuple[PeerId | None, PeerId | None], float] = {}
        """When the last message between two of them arrives."""
        self.layout = self._layout
        self.blobs = self._blobs
        self._missing -= 1
        self.later(0.0, attack, self)

    @property
    def now(self) -> float:
        return self._now

    @property
    def rng(self) -> random.Random:
        return self._rng

    @property
    def egress(self) -> float:
        """Bytes that left the origin, as blobs."""
        return self._fetched / self._size

    def say(self, message: FromPeer) -> None:
        """The hostile member tells the supernode something."""
        try:
            super()._tell_tracker(self.hostile, message)
        except InvalidMessage:
            self.excluded.add(self.hostile.id)

    def all_pieces(self) -> bytes:
        return to_bitfield(self.layout.all, self.layout.count)

    # --- the runner, with content -----------------------------------------------------------------------------------

    def _do(self, peer: Peer, command: Command) -> None:
        match command:
            case Land():
                self._land(peer, command)
            case Dial(other) if other == self.hostile.id and not self.serves:
                self.later(0.01, peer.machine.unreachable, other, self._now)
            case TellTable(blob):
                digests = b"".join(right(piece) for piece in range(self._layout.count))
                table = protocol.Table(*blob, self.all_pieces(), digests)
                self.later(0.05, self._tell_tracker, peer, table)
            case HangUp(other):
                if peer is not self.hostile:
                    self.shunned.append((peer.id, other))
                super()._do(peer, command)
            case Discard():
                held = self.content.get((peer.id, command.blob), {})
                for piece in [piece for piece in held if command.pieces >> piece & 1]:
                    del held[piece]
            case _:
                super()._do(peer, command)

    def _land(self, peer: Peer, command: Land) -> None:
        digest = bytes(command.content)
        if command.expected is not None and command.expected != digest and not isinstance(command.source, int):
            peer.machine.corrupt(command.blob, command.piece, command.source, command.expected, self._now)
        elif peer.machine.landed(command.blob, command.piece, digest, command.source, self._now):
            self.content.setdefault((peer.id, command.blob), {})[command.piece] = digest
            self._ended(peer, command.blob)
        self._act(peer)

    def _ended(self, peer: Peer, blob: BlobKey) -> None:
        sought = peer.machine.sought[blob]
        content = self.content[peer.id, blob]
        if not sought.pieces.missing and any(digest != right(piece) for piece, digest in content.items()):
            if peer is self.hostile:
                return
            peer.machine.mismatched(blob, self._now)
            self._act(peer)
            if blob in peer.reading:  # its response was cut, and the client asks again
                peer.reading[blob] = leading_run(sought.pieces.there, 0)
                peer.machine.reading(blob, 1, peer.reading[blob], self._now)
        else:
            super()._ended(peer, blob)
            if peer is self.hostile and not peer.machine.sought:
                self._missing += 1

    def _passed(self, peer: Peer, holder: Peer, piece: wire.Piece) -> None:
        if peer.gone or holder.gone:
            return
        key = next(blob for blob in self._blobs if blob.digest == piece.digest)
        digest = self.content.get((holder.id, key), {}).get(piece.piece, WRONG)
        if holder is self.hostile and self.lies_about(piece.piece):
            digest = WRONG
        peer.machine.exchange.piece(holder.id, piece, bytearray(digest), self._now)
        self._act(peer)

    def _from_origin(self, piece: int) -> bytearray:
        return bytearray(right(piece))

    def _tell_tracker(self, peer: Peer, message: FromPeer) -> None:
        try:
            super()._tell_tracker(peer, self._changed(message) if peer is self.hostile else message)
        except InvalidMessage:
            self.excluded.add(peer.id)

    def _changed(self, message: FromPeer) -> FromPeer:
        if isinstance(message, protocol.Progress):
            count = len(message.digests) // PIECE_DIGEST_SIZE
            told = [
                WRONG if self.lies_about(message.first + place) else right(message.first + place)
                for place in range(count)
            ]
            return protocol.Progress(message.lease, message.first, b"".join(told))
        if isinstance(message, protocol.Table):
            return protocol.Table(message.digest, message.size, message.pieces, WRONG * (len(message.digests) // 16))
        return message

    # --- connections keep the order of what is said over them, which the queues of a simulation do not ---------------

    def _flush(self) -> None:
        for peers, message in self._tracker.take():
            for peer in [self._peers[each] for each in peers]:
                self._message(None, peer, self._hear, [peer], message)

    def _send(self, peer: Peer, command: Send) -> None:
        for other in [self._peers[each] for each in command.peers]:
            self._message(peer, other, self._deliver, peer, [other], command.message)

    def _message(
        self, sender: Peer | None, receiver: Peer | None, happen: Callable[..., None], *arguments: Any
    ) -> None:
        waits = [sender.up.wait(self._now) if sender else 0.0, receiver.down.wait(self._now) if receiver else 0.0]
        between = (sender.id if sender else None, receiver.id if receiver else None)
        at = self.last[between] = max(self._now + LATENCY + sum(waits), self.last.get(between, 0.0))
        self.later(at - self._now, happen, *arguments)

    def end(self, limit: float = 12.0) -> None:
        """Run until all honest peers have the right blob."""
        self.run(limit)
        for peer in self.honest:
            assert peer.library.blobs == set(self._blobs)
            for blob in self._blobs:
                assert self.content[peer.id, blob] == {piece: right(piece) for piece in range(self._layout.count)}
        assert self.excluded <= {self.hostile.id}, "an honest member was taken for a liar"
        assert {other for _, other in self.shunned} <= {self.hostile.id}, "an honest peer was shunned"


def nothing(world: Besieged) -> None:
    """Says nothing besides."""


def test_a_swarm_without_lies_is_as_it_was() -> None:
    world = Besieged(1, nothing)
    world.end()
    assert world.egress == pytest.approx(1.0, abs=0.05)
    print(world.now, world.egress)


def repeating(every: float, until: float, act: Callable[[Besieged], None]) -> Callable[[Besieged], None]:
    """An attack that is made again and again."""

    def attack(world: Besieged) -> None:
        act(world)
        if world.now < until:
            world.later(every, attack, world)

    return attack


def opens(world: Besieged) -> None:
    world.say(protocol.Open([protocol.Wanted(*blob, "docker.io", "library/simulated") for blob in world.blobs]))


def complains(world: Besieged) -> None:
    opens(world)
    for blob in world.blobs:
        world.say(protocol.Corrupt(*blob))


def claims(world: Besieged, *, whole: bool) -> None:
    have = b"" if whole else world.all_pieces()
    world.say(protocol.Announce([protocol.Held(*blob, have) for blob in world.blobs]))


def answers_nonsense(world: Besieged, *, whole: bool) -> None:
    claims(world, whole=whole)
    for blob in world.blobs:
        world.say(protocol.Table(*blob, world.all_pieces(), WRONG * world.layout.count))


@pytest.mark.parametrize("seed", range(2))
def test_one_members_complaints_cost_nobody_anything(seed: int) -> None:
    world = Besieged(seed, repeating(0.2, 20.0, complains), serves=False)
    world.end()
    print(f"complaints: {world.now:.1f} s, egress {world.egress:.2f}, excluded {len(world.excluded)}")
    assert (world.excluded, world.shunned) == (set(), [])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("whole", [False, True], ids=["pieces", "whole"])
@pytest.mark.parametrize("lasts", [0.2, 60.0])
def test_a_member_that_claims_all_and_tells_nonsense_of_it_is_found_out(seed: int, whole: bool, lasts: float) -> None:
    world = Besieged(seed, repeating(0.02, lasts, partial(answers_nonsense, whole=whole)), serves=False)
    world.end()
    print(
        f"nonsense {whole} {lasts}: {world.now:.1f} s, egress {world.egress:.2f}, excluded {len(world.excluded)}, "
        f"shuns {len(world.shunned)}"
    )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("honest", [1, 2, 3, 8])
@pytest.mark.parametrize("lies", ["all", "one"])
def test_a_leaseholder_whose_digests_lead_to_a_wrong_blob_is_found_out(seed: int, honest: int, lies: str) -> None:
    lies_about = (lambda piece: True) if lies == "all" else (lambda piece: piece % 16 == 3)
    world = Besieged(seed, nothing, honest=honest, lies_about=lies_about)
    world.end()
    print(
        f"leaseholder {honest} {lies}: {world.now:.1f} s, egress {world.egress:.2f}, excluded {len(world.excluded)}, "
        f"shuns {len(world.shunned)}"
    )


def anything(world: Besieged) -> None:
    """One random message about the image, with anything in it."""
    rng, blob = world.rng, world.rng.choice(world.blobs)
    among = rng.choice([world.layout.all, rng.getrandbits(world.layout.count), 0b11])
    pieces = to_bitfield(among, world.layout.count)
    lease = rng.choice([*range(1, 40), 1 << 40])
    digests = b"".join(rng.choice([WRONG, right(piece)]) for piece in range(world.layout.count) if among >> piece & 1)
    some = rng.choice([b"", pieces])
    messages: list[FromPeer] = [
        protocol.Announce([protocol.Held(*blob, some, pieces)]),
        protocol.Open([protocol.Wanted(*blob, "docker.io", "library/simulated", pieces, some)]),
        protocol.Table(*blob, pieces, digests),
        protocol.Corrupt(*blob),
        protocol.Starved(*blob, pieces),
        protocol.Close([BlobRef(*blob)]),
        protocol.Seek([BlobRef(*blob)]),
        protocol.Progress(lease, rng.randrange(world.layout.count), digests[: PIECE_DIGEST_SIZE * 4]),
        protocol.Release(lease, rng.choice(["failed", "denied", "closed"])),
        protocol.Trimmed(lease, rng.randrange(world.layout.count)),
    ]
    world.say(rng.choice(messages))


@pytest.mark.parametrize("seed", range(24))
def test_whatever_one_member_does_all_others_get_the_right_blob(seed: int) -> None:
    """It says anything at any pace, lies about any pieces as a leaseholder, and serves or does not."""
    rng = random.Random(seed)
    lying = rng.choice([0, 0, 1, 3, 16])
    world = Besieged(
        seed,
        repeating(rng.choice([0.01, 0.1, 0.5]), rng.choice([0.5, 60.0]), anything),
        honest=rng.choice([2, 3, 4, 8]),
        lies_about=lambda piece: bool(lying) and piece % lying == 0,
        serves=rng.random() < 0.7,
        layers=rng.choice([1, 1, 4]),
    )
    world.end()
    assert world.egress < MOST_EGRESS
    print(f"anything {seed}: {world.now:.1f} s, egress {world.egress:.2f}, excluded {len(world.excluded)}")
