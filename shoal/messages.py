"""Typed messages: msgpack on the wire, frozen structures inside, one encode and one decode for both protocols.

`msgpack` reads the bytes under limits, `msgspec` checks every field against its type; unknown fields are ignored.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, get_args

import msgpack
import msgspec

_MAX_CONTAINER = 1 << 16
_TAG = "t"


class InvalidMessage(ValueError):
    """Bytes that are no message of the expected kinds."""


class Message(msgspec.Struct, frozen=True, tag_field=_TAG, tag=str.lower, omit_defaults=True):
    """Base of all messages; the field `_TAG` holds the lower-case name of the kind."""


M = TypeVar("M")


class Codec(Generic[M]):
    """Encodes and decodes the messages of one protocol in one direction.

    `kinds` is a message class or the union of several, `limit` the largest encoded message in bytes.
    """

    def __init__(self, kinds: Any, limit: int) -> None:
        # by tag, as msgspec would find them itself, which takes it eight times as long as all the rest
        self._kinds: dict[Any, Any] = {kind.__struct_config__.tag: kind for kind in get_args(kinds) or (kinds,)}
        self.limit = limit

    def encode(self, message: M) -> bytes:
        """The message as bytes; raises `InvalidMessage` where it is over the limit."""
        data: bytes = msgpack.packb(msgspec.to_builtins(message, builtin_types=(bytes,), enc_hook=str))
        if len(data) > self.limit:
            raise InvalidMessage(f"a {type(message).__name__} of {len(data)} bytes is over the limit of {self.limit}")
        return data

    def decode(self, data: bytes | memoryview) -> M:
        """The message that `data` holds; raises `InvalidMessage`."""
        if len(data) > self.limit:
            raise InvalidMessage(f"a message of {len(data)} bytes is over the limit of {self.limit}")
        try:
            raw = msgpack.unpackb(data, max_array_len=_MAX_CONTAINER, max_map_len=_MAX_CONTAINER)
            decoded: M = msgspec.convert(raw, type=self._kinds[raw[_TAG]])
        except (LookupError, ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise InvalidMessage(f"not a message: {str(error)[:200]}") from None
        return decoded
