"""What is kept in files, and that its bytes are those of the messages' encoder."""

from __future__ import annotations

from typing import Any, get_args

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

import peer.checkpoint
import peer.wire
import supernode.protocol
from shoal.records import InvalidRecord, RecordCodec

LIMIT = 1 << 20
KINDS = [
    peer.checkpoint._State,
    *get_args(peer.wire.Kinds),
    *get_args(supernode.protocol.FromPeer),
    *get_args(supernode.protocol.FromSupernode),
]


class Note(msgspec.Struct, frozen=True):
    text: str
    number: int = 0


def values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Everything that a field of this type may hold, up to moderate lengths."""
    match kind:
        case inspect.StructType():
            fields = {field.name: values(field.type) for field in kind.fields}
            return st.fixed_dictionaries(fields).map(lambda given: kind.cls(**given))
        case inspect.ListType():
            return st.lists(values(kind.item_type), max_size=min(kind.max_length or 4, 4))
        case inspect.DictType():
            keys, held = values(kind.key_type), values(kind.value_type)
            return st.dictionaries(keys, held, max_size=min(kind.max_length or 4, 4))
        case inspect.StrType():
            return st.text(max_size=min(kind.max_length or 300, 300))
        case inspect.BytesType():
            return st.binary(max_size=min(kind.max_length or 300, 300))
        case inspect.IntType():
            highest = kind.lt - 1 if kind.lt is not None else (1 << 63) - 1 if kind.le is None else kind.le
            return st.integers(-(1 << 63) if kind.ge is None else kind.ge, highest)
        case inspect.FloatType():
            return st.floats(kind.ge if kind.gt is None else kind.gt, kind.le, exclude_min=kind.gt is not None)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.UnionType():
            return st.one_of(*map(values, kind.types))
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
@given(data=st.data())
def test_both_encoders_say_the_same_and_read_each_others(kind: type[Any], data: st.DataObject) -> None:
    record = data.draw(values(inspect.type_info(kind)))
    encoded = RecordCodec(kind, LIMIT).encode(record)
    other = msgspec.msgpack.Encoder(enc_hook=str).encode(record)  # of many fields it may write a longer head
    assert msgspec.msgpack.decode(encoded) == msgspec.msgpack.decode(other)
    assert RecordCodec(kind, LIMIT).decode(encoded) == record
    assert msgspec.msgpack.Decoder(kind).decode(encoded) == record


@given(st.binary(max_size=100))
def test_any_bytes_are_a_record_or_an_error(content: bytes) -> None:
    try:
        assert isinstance(RecordCodec(Note, LIMIT).decode(content), Note)
    except InvalidRecord:
        pass


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        msgpack.packb({"text": 1}),
        msgpack.packb({"number": 1}),
        msgpack.packb([]),
        msgpack.packb({"text": "a"}) + b"\0",
        msgpack.packb({"text": "a"})[:-1],
        b"\x91" * 5000,
        b"\xdd\xff\xff\xff\xff",
        b"\x81\xa4text\xa1\xff",
        msgpack.packb({"text": msgpack.Timestamp(1)}),
    ],
    ids=lambda content: content[:12].hex() or "empty",
)
def test_what_is_no_record_is_refused_as_a_value(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a record") as caught:
        RecordCodec(Note, LIMIT).decode(content)
    assert isinstance(caught.value, InvalidRecord)


def test_unknown_fields_are_ignored() -> None:
    assert RecordCodec(Note, LIMIT).decode(msgpack.packb({"text": "a", "later": 1})) == Note("a")


def test_the_limit_holds_in_both_directions() -> None:
    codec = RecordCodec(Note, 20)
    with pytest.raises(InvalidRecord, match="over the limit of 20"):
        codec.encode(Note("a" * 20))
    with pytest.raises(InvalidRecord, match="over the limit of 20"):
        codec.decode(bytes(21))
