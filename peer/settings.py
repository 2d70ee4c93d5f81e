"""The peer's part of the configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from peer.uploads import UPLOAD_SLOTS
from shoal.daemonsettings import OperationsSettings
from shoal.fields import LIVE, AnyHost, Duration, Port, check_url, is_loopback
from shoal.limits import NO_LIMITS, LimitSettings
from shoal.units import parse_amount
from supernode.protocol import MAX_LABELS

SYSTEM_STORE = Path("/var/lib/shoal")
USER_STORE = Path("~/.local/share/shoal")
OPERATOR_TOKEN = "operator-token"
_MAX_TEXT, _MAX_TEXTS = 128, 1024
"""Characters of a name or a label, and bytes of all of them."""
LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"


def default_store() -> Path:
    """Where the store is when nobody says so: the system's place for root, else below the home folder."""
    return SYSTEM_STORE if os.geteuid() == 0 else USER_STORE.expanduser()


_AMOUNT = "a size such as 200GiB, or a share of the disk such as 80%, as a text"
Amount = Annotated[str, Meta(min_length=1, description=_AMOUNT), LIVE]


class CacheSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the store may hold. Pinned images and what is in use stay also beyond it."""

    high: Amount = "80%"
    """Over so much, of the disk or as a size, the store gives up what was least recently used ..."""

    low: Amount = "70%"
    """... until it holds no more than this, or than `high` where that is less."""

    free: Amount = "5%"
    """So much the disk keeps free besides, whoever fills it."""

    scrub: Annotated[Duration, Meta(ge=0), LIVE] = 7 * 24 * 3600.0
    """How long one round takes in which each stored blob is hashed again; 0: never."""

    def __post_init__(self) -> None:
        for key, text in (("high", self.high), ("low", self.low), ("free", self.free)):
            try:
                parse_amount(text, 0)
            except ValueError:
                raise ValueError(f"`{key}` {text!r} (allowed: {_AMOUNT})") from None


DEFAULT_CACHE = CacheSettings()


class PeerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a peer keeps, whom it serves and how long it waits."""

    host: AnyHost = ""
    """Where other peers connect. Empty: every address where the supernode is on another machine, else 127.0.0.1."""

    port: Port = 5081
    """The port for other peers."""

    advertise: AnyHost = ""
    """The host that other peers are told. Empty: the address from which the supernode sees this peer."""

    name: str = ""
    """What people call this node. Empty: the name of its machine."""

    labels: Annotated[dict[str, str], Meta(max_length=MAX_LABELS)] = msgspec.field(default_factory=dict)
    """By what people choose this node among others, such as `{rack = "b4"}`: 16 at the most, of 1,024
    bytes in all."""

    zone: str = ""
    """A name for what is near: peers prefer neighbours of their own zone. Empty: the subnet decides."""

    supernode: str = ""
    """The supernode, `http://host:5090`. Empty: none; the peer is a pull-through cache on one node."""

    store: Path = msgspec.field(default_factory=default_store)
    """The folder of the blob store, an OCI image layout. `/var/lib/shoal` for root, else `~/.local/share/shoal`."""

    containerd: Path | None = None
    """The root of this node's containerd, as a rule `/var/lib/containerd`: what its content store holds is read
    where it lies, hashed once at 50 MiB/s at most, and offered to other peers. Nothing is written there."""

    cache: CacheSettings = DEFAULT_CACHE

    upload_slots: Annotated[int, Meta(ge=1, le=64), LIVE] = UPLOAD_SLOTS
    """Pieces served to other peers at a time."""

    limits: LimitSettings = NO_LIMITS

    operations: OperationsSettings = OperationsSettings(port=5082)

    image_ahead: Annotated[bool, LIVE] = True
    """Whether the first blob asked for of an image opens all that follow it."""

    origin_wait: Annotated[Duration, Meta(gt=0, le=300), LIVE] = 2.0
    """The longest wait for the supernode before the origin is asked without it."""

    shutdown_grace: Annotated[Duration, Meta(ge=0, le=3600), LIVE] = 30.0
    """How long running transfers may go on when the peer stops."""

    @property
    def token_file(self) -> Path:
        """Where the operator's token is."""
        configured = self.operations.token_file
        return Path(configured).expanduser() if configured else self.store / OPERATOR_TOKEN

    def _check_labels(self) -> None:
        if any(not key or "=" in key or "," in key for key in self.labels):
            raise ValueError("`labels`: a label's name is not empty and holds no `=` or comma")
        texts = [self.name, *self.labels, *self.labels.values()]
        if any(len(text) > _MAX_TEXT or not text.isprintable() for text in texts):
            raise ValueError(f"`name` and `labels` hold printable characters, {_MAX_TEXT} each at the most")
        if sum(len(text.encode()) for text in texts) > _MAX_TEXTS:
            raise ValueError(f"`name` and `labels` hold more than {_MAX_TEXTS} bytes in all")

    def __post_init__(self) -> None:
        self._check_labels()
        alone = not self.supernode or is_loopback(check_url("supernode", self.supernode))
        if not self.host:
            msgspec.structs.force_setattr(self, "host", LOOPBACK if alone else EVERYWHERE)
