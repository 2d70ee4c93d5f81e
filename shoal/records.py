"""Typed records in files, as msgpack: what outlives the process that wrote it."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgpack
import msgspec

_MAX_CONTAINER = 1 << 16


class InvalidRecord(ValueError):
    """Bytes that are no record of the expected type."""


R = TypeVar("R")


class RecordCodec(Generic[R]):
    """Encodes and decodes the records of one type, a `msgspec.Struct`; `limit` is the largest one in bytes.

    To be made at import: msgspec 0.22 crashes where two threads are the first to use a type together.
    """

    def __init__(self, kind: type[R], limit: int) -> None:
        msgspec.msgpack.Decoder(kind)  # the first use of the type
        self._kind = kind
        self.limit = limit

    def encode(self, record: R) -> bytes:
        """The record as bytes; raises `InvalidRecord` where it is over the limit."""
        data: bytes = msgpack.packb(msgspec.to_builtins(record, builtin_types=(bytes,), enc_hook=str))
        if len(data) > self.limit:
            raise InvalidRecord(f"a record of {len(data)} bytes is over the limit of {self.limit}")
        return data

    def decode(self, data: bytes) -> R:
        """The record that `data` holds; raises `InvalidRecord`."""
        if len(data) > self.limit:
            raise InvalidRecord(f"a record of {len(data)} bytes is over the limit of {self.limit}")
        try:
            raw = msgpack.unpackb(data, max_array_len=_MAX_CONTAINER, max_map_len=_MAX_CONTAINER)
            return msgspec.convert(raw, type=self._kind)
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise InvalidRecord(f"not a record: {str(error)[:200]}") from None
