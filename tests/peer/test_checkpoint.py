"""What a restart believes, and what it does not."""

from __future__ import annotations

from typing import Any

import blake3
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.checkpoint import Checkpoint, InvalidCheckpoint
from shoal.digest import Digest
from shoal.pieces import GIB, MAX_BLOB_SIZE, PIECE_DIGEST_SIZE, PieceLayout

SHA256, SHA512 = Digest("sha256:" + "ab" * 32), Digest("sha512:" + "cd" * 64)


@st.composite
def checkpoints(draw: st.DrawFn) -> Checkpoint:
    layout = PieceLayout.of(draw(st.integers(0, 20 << 20)))
    have = draw(st.integers(0, layout.all))
    table = draw(
        st.dictionaries(
            st.integers(0, layout.count - 1), st.binary(min_size=PIECE_DIGEST_SIZE, max_size=PIECE_DIGEST_SIZE)
        )
    )
    mtime_ns = draw(st.integers(0, (1 << 63) - 1))
    return Checkpoint(draw(st.sampled_from([SHA256, SHA512])), layout, have, table, mtime_ns)


@given(checkpoints())
def test_a_checkpoint_comes_back_without_digests_of_absent_pieces(start: Checkpoint) -> None:
    back = Checkpoint.decode(start.encode())
    kept = {index: digest for index, digest in start.table.items() if start.have >> index & 1}
    assert back == Checkpoint(start.digest, start.layout, start.have, kept, start.mtime_ns)


@given(checkpoints(), st.data())
def test_any_altered_byte_voids_it(start: Checkpoint, data: st.DataObject) -> None:
    content = bytearray(start.encode())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidCheckpoint):
        Checkpoint.decode(bytes(content))


@given(checkpoints(), st.data())
def test_any_truncation_voids_it(start: Checkpoint, data: st.DataObject) -> None:
    content = start.encode()
    with pytest.raises(InvalidCheckpoint):
        Checkpoint.decode(content[: data.draw(st.integers(0, len(content) - 1))])


@given(st.binary(max_size=200))
def test_bytes_under_a_right_checksum_are_not_trusted(body: bytes) -> None:
    with pytest.raises(InvalidCheckpoint):
        Checkpoint.decode(_sealed(body))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"version": "2"},
        {"t": "other"},
        {"digest": "sha256:zz"},
        {"digest": "../../etc/passwd"},
        {"size": -1},
        {"size": MAX_BLOB_SIZE + 1},
        {"size": 10 * GIB},
        {"piece_size": 1},
        {"mtime_ns": None},
        {"have": b"\xff"},
        {"have": b"\x1f\x00"},
        {"have": b"", "listed": b""},
        {"listed": b"\x04"},
        {"digests": bytes(15)},
        {"digests": bytes(48)},
        {"digests": None},
    ],
    ids=str,
)
def test_a_field_that_does_not_fit_voids_it(change: dict[str, Any]) -> None:
    layout = PieceLayout.of(5 * 256 * 1024)
    start = Checkpoint(SHA256, layout, 0b00011, {0: bytes(16), 1: bytes(16)}, 7)
    fields = msgpack.unpackb(start.encode()[32:])
    assert Checkpoint.decode(_sealed(msgpack.packb(fields))) == start
    with pytest.raises(InvalidCheckpoint):
        Checkpoint.decode(_sealed(msgpack.packb(fields | change)))


def test_the_largest_blob_fits() -> None:
    layout = PieceLayout.of(MAX_BLOB_SIZE)
    start = Checkpoint(SHA512, layout, layout.all, {index: index.to_bytes(16) for index in range(layout.count)}, 1)
    assert Checkpoint.decode(start.encode()) == start


def _sealed(body: bytes) -> bytes:
    return blake3.blake3(body).digest() + body
