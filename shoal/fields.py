"""The types of settings: how people write their values, and what is allowed."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import inspect
from yarl import URL

from shoal.units import parse_duration, parse_rate, parse_size

_LOCAL_NAME = "localhost"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True)
class Unit:
    """How a number is written: its reader, what people are told, and units from the largest down."""

    parse: Callable[[str], float]
    meaning: str
    units: tuple[tuple[str, float], ...]

    def write(self, value: float) -> str | float:
        """`value` with the largest unit that loses nothing; the number itself where there is none."""
        for name, factor in self.units:
            text = f"{value / factor:g}{name}"
            if value >= factor and self.parse(text) == value:
                return text
        return value


class Live:
    """Marks the type of a setting that a running daemon takes over when it reads its configuration again."""

    def __repr__(self) -> str:
        return "LIVE"


LIVE = Live()

_SIZE = Unit(
    parse_size, "a size such as 100, 256MiB or 1.5GB", (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
)
_RATE = Unit(
    parse_rate, "a rate such as 50Mbit/s or 10MiB/s", (("Gbit/s", 1.25e8), ("Mbit/s", 1.25e5), ("kbit/s", 125))
)
_DURATION = Unit(
    parse_duration, "a duration such as 500ms, 30s, 5m or 1.5h", (("h", 3600), ("m", 60), ("s", 1), ("ms", 0.001))
)

Size = Annotated[int, _SIZE]
"""Bytes."""
Rate = Annotated[float | None, _RATE]
"""Bytes per second; None where nothing is said of it."""
Duration = Annotated[float, _DURATION]
"""Seconds."""

_HOST = "a host name or an address, without brackets and port"
Host = Annotated[str, msgspec.Meta(pattern=r"^[^\s\[\]/]+$", description=_HOST)]
"""Where to listen."""
AnyHost = Annotated[str, msgspec.Meta(pattern=r"^[^\s\[\]/]*$", description=f"{_HOST}, or nothing")]
"""A host; empty where nothing is said of it."""
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
"""A TCP port; 0 takes any free one."""


def check_url(key: str, text: str) -> str:
    """The host of an address of the form `http(s)://host[:port]`; raises `ValueError` that names `key` for others."""
    allowed = "(allowed: http://host[:port] or https://host[:port])"
    try:
        url = URL(text)
    except ValueError as error:
        raise ValueError(f"`{key}` {text!r}: {error} {allowed}") from None
    extra = url.user or url.password or url.query_string or url.fragment or url.path not in {"", "/"}
    if url.scheme not in {"http", "https"} or not url.host or extra:
        raise ValueError(f"`{key}` {text!r} is not such an address {allowed}")
    return url.host


def check_proxy_url(key: str, text: str) -> None:
    """Raises `ValueError` for what is not `http://[user:password@]host[:port]`, the address of an HTTP proxy."""
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    extra = url.query_string or url.fragment or url.path not in {"", "/"}
    if url.scheme != "http" or not url.host or extra:
        raise ValueError(f"`{key}` is no address of an HTTP proxy (allowed: http://[user:password@]host[:port])")


def from_here(host: str) -> str:
    """The host by which the machine itself reaches what listens at `host`: one that stands for all addresses is none
    to connect to."""
    return _EVERYWHERE.get(host, host)


def is_everywhere(host: str) -> bool:
    """Whether who listens at this host does so at all addresses of the machine."""
    return host in _EVERYWHERE


def is_loopback(host: str) -> bool:
    """Whether a host, a name or an address, is this machine as far as its text tells (RFC 6761 of names)."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host == _LOCAL_NAME or host.endswith(f".{_LOCAL_NAME}")
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (inner or address).is_loopback


def authority(host: str, port: int) -> str:
    """`host:port` as it stands in addresses."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bare(kind: Any) -> Any:
    """The type without what `Annotated` adds."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def unit_of(kind: Any) -> Unit | None:
    """How a number of this type is written, where it has a unit."""
    extras = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    return next((extra for extra in extras if isinstance(extra, Unit)), None)


def is_live(kind: Any) -> bool:
    """Whether a setting of this type is changed without a restart."""
    return get_origin(kind) is Annotated and any(isinstance(extra, Live) for extra in get_args(kind)[1:])


def allowed(kind: Any) -> str:
    """What a value of type `kind` may be, for people."""
    info: Any = inspect.type_info(kind)
    described = ""
    if isinstance(info, inspect.Metadata):
        described, info = (info.extra_json_schema or {}).get("description", ""), info.type
    unit = unit_of(kind)
    if isinstance(info, inspect.UnionType):  # a number that may be left out
        info = next(each for each in info.types if not isinstance(each, inspect.NoneType))
    match info:
        case inspect.LiteralType():
            return ", ".join(str(value) for value in info.values)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType() | inspect.FloatType():
            number = "a whole number" if isinstance(info, inspect.IntType) else "a number"
            return (unit.meaning if unit else described or number) + _bounds(info, unit)
        case inspect.StrType():
            return described or ("a text that is not empty" if info.min_length else "a text")
        case inspect.ListType():
            return "a list"
        case inspect.CustomType():
            return "a path" if info.cls is Path else info.cls.__name__
    return described or str(bare(kind))


def _bounds(info: inspect.IntType | inspect.FloatType, unit: Unit | None) -> str:
    words = [(" above ", info.gt), (" from ", info.ge), (" below ", info.lt), (" to ", info.le)]
    return "".join(f"{word}{unit.write(value) if unit else value}" for word, value in words if value is not None)
