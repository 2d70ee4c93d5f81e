"""How two nodes prove to each other that they know the cluster's secret, and what binds a connection to that proof.

No I/O and no randomness: nonces are passed in. The side that opened the connection is the initiator; it proves first,
so that whoever merely connects is given nothing that was made with the secret:

    initiator                                responder
    Opening(peer, nonce)        ------->
                                <-------     Challenge(nonce)
    Proof(mac)                  ------->
                                <-------     Proof(mac)

Both proofs are keyed hashes over the plane, both peers, both nonces and the role, so that none of them counts in
another connection, in the other direction, on the other plane or between other peers. What follows is sealed: each
message carries a keyed hash over itself and its number, with a key of this connection and direction. Nothing is
encrypted.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from typing import Annotated, Literal, NewType

import msgspec
from blake3 import blake3

from shoal.messages import Codec, InvalidMessage, Message

NONCE_SIZE = 32
MAX_HANDSHAKE_SIZE = 256
"""Bytes of one message of the handshake."""
SEAL_SIZE = 16
"""Bytes of the keyed hash behind a sealed message."""

SUPERNODE = "supernode"
"""The supernode's name in handshakes, where a peer's is its id."""

Plane = Literal["control", "peer"]
SecretKey = NewType("SecretKey", bytes)
"""What a secret is made into; 32 bytes."""

_PROOF_SIZE = 32
_SALT = b"shoal cluster secret 1"
_STRETCH = 100_000
"""Rounds of PBKDF2 (0.03 s): who records a handshake tries guesses that much more slowly."""
_TRANSCRIPT = b"shoal membership 1"
_COUNTER = struct.Struct("<Q")

_Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_SIZE, max_length=NONCE_SIZE)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Mac = Annotated[bytes, msgspec.Meta(min_length=_PROOF_SIZE, max_length=_PROOF_SIZE)]


class NotAMember(InvalidMessage):
    """The other side has not proved that it knows the cluster's secret, or a message was not made by it."""


class Opening(Message, frozen=True):
    """The initiator's first message."""

    peer: _Name
    nonce: _Nonce


class Challenge(Message, frozen=True):
    """The responder's answer."""

    nonce: _Nonce


class Proof(Message, frozen=True):
    """That its sender knows the secret."""

    mac: _Mac


_codec: Codec[Opening | Challenge | Proof] = Codec(Opening | Challenge | Proof, MAX_HANDSHAKE_SIZE)


def is_opening(data: bytes | memoryview) -> bool:
    """Whether these bytes begin a handshake."""
    try:
        return isinstance(_codec.decode(data), Opening)
    except InvalidMessage:
        return False


def key_of(secret: str) -> SecretKey:
    """The key of a secret; takes about 0.03 s."""
    return SecretKey(hashlib.pbkdf2_hmac("sha256", secret.encode(), _SALT, _STRETCH))


class Session:
    """What comes of a handshake: seals messages that are sent, in their order, and opens those that come, in theirs."""

    def __init__(self, other: str, sending: bytes, receiving: bytes) -> None:
        self.other = other
        """Who is on the other side."""
        self.overhead = SEAL_SIZE
        """Bytes that a sealed message is longer than what it holds."""
        self._sending = sending
        self._receiving = receiving
        self._sent = self._received = 0

    def seal(self, data: bytes) -> bytes:
        """`data` as the next message to be sent."""
        mac = _mac(self._sending, self._sent, data)
        self._sent += 1
        return data + mac

    def open(self, data: memoryview) -> memoryview:
        """What the next message that has come holds; raises `NotAMember`, after which nothing may follow."""
        content = data[:-SEAL_SIZE]
        if not hmac.compare_digest(_mac(self._receiving, self._received, content), data[-SEAL_SIZE:]):
            raise NotAMember("a message that the other side did not send so")
        self._received += 1
        return content


class Unsealed:
    """Stands for a session where the cluster has no secret: messages go as they are."""

    other = ""
    overhead = 0

    def seal(self, data: bytes) -> bytes:
        """`data` itself."""
        return data

    def open(self, data: memoryview) -> memoryview:
        """`data` itself."""
        return data


UNSEALED = Unsealed()


class Initiator:
    """The side that opened the connection: send `opening()`, then what `received` returns, until `session` is there."""

    def __init__(self, key: SecretKey, plane: Plane, me: str, other: str, nonce: bytes) -> None:
        """`other`: whom this side means to talk to; `nonce`: `NONCE_SIZE` random bytes that are used once."""
        self._key = key
        self._plane = plane
        self._me = me
        self._other = other
        self._nonce = nonce
        self._transcript: bytes | None = None
        self.session: Session | None = None

    def opening(self) -> bytes:
        """The first message."""
        return _codec.encode(Opening(self._me, self._nonce))

    def received(self, data: bytes) -> bytes | None:
        """Take a message, and return the next one to send; None where there is none. Raises `NotAMember`."""
        message = _decoded(data)
        if self._transcript is None and isinstance(message, Challenge):
            self._transcript = _transcript(self._plane, self._me, self._other, self._nonce, message.nonce)
            return _codec.encode(Proof(_derived(self._key, "initiator's proof", self._transcript)))
        if self._transcript is None or self.session is not None or not isinstance(message, Proof):
            raise NotAMember(f"a {type(message).__name__} that is not expected now")
        if not hmac.compare_digest(message.mac, _derived(self._key, "responder's proof", self._transcript)):
            raise NotAMember("the other side does not know the cluster's secret")
        self.session = Session(
            self._other,
            sending=_derived(self._key, "initiator's messages", self._transcript),
            receiving=_derived(self._key, "responder's messages", self._transcript),
        )
        return None


class Responder:
    """The side that was connected to; send what `received` returns. `session` is there when it is done."""

    def __init__(self, keys: Sequence[SecretKey], plane: Plane, me: str, nonce: bytes) -> None:
        """`keys`: any of them is good enough, so that the secret can be changed node by node."""
        self._keys = keys
        self._plane = plane
        self._me = me
        self._nonce = nonce
        self._opening: Opening | None = None
        self.session: Session | None = None

    def received(self, data: bytes) -> bytes:
        """Take a message, and return the answer to it; raises `NotAMember`."""
        message = _decoded(data)
        opening = self._opening
        if opening is None and isinstance(message, Opening):
            self._opening = message
            return _codec.encode(Challenge(self._nonce))
        if opening is None or self.session is not None or not isinstance(message, Proof):
            raise NotAMember(f"a {type(message).__name__} that is not expected now")
        transcript = _transcript(self._plane, opening.peer, self._me, opening.nonce, self._nonce)
        key = self._proved_by(message, transcript)
        self.session = Session(
            opening.peer,
            sending=_derived(key, "responder's messages", transcript),
            receiving=_derived(key, "initiator's messages", transcript),
        )
        return _codec.encode(Proof(_derived(key, "responder's proof", transcript)))

    def _proved_by(self, proof: Proof, transcript: bytes) -> SecretKey:
        for key in self._keys:
            if hmac.compare_digest(proof.mac, _derived(key, "initiator's proof", transcript)):
                return key
        raise NotAMember("the other side does not know the cluster's secret")


def _decoded(data: bytes) -> Opening | Challenge | Proof:
    try:
        return _codec.decode(data)
    except InvalidMessage:
        raise NotAMember(
            "the other side does not prove a cluster secret: it has none, or its `cluster` table is another one"
        ) from None


def _transcript(plane: Plane, initiator: str, responder: str, opening: bytes, challenge: bytes) -> bytes:
    """All that a handshake is about, so that no two different ones have the same bytes."""
    parts = [_TRANSCRIPT, plane.encode(), initiator.encode(), responder.encode(), opening, challenge]
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def _derived(key: SecretKey, purpose: str, transcript: bytes) -> bytes:
    label = purpose.encode()
    return blake3(len(label).to_bytes(2, "big") + label + transcript, key=key).digest()


def _mac(key: bytes, number: int, data: bytes | memoryview) -> bytes:
    return blake3(_COUNTER.pack(number), key=key).update(data).digest(SEAL_SIZE)
