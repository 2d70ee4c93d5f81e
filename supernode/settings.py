"""The supernode's part of the configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from shoal.fields import Duration, Host, Port
from supernode.handout import MAX_NEIGHBOURS
from supernode.leases import ORIGIN_SLOTS


class SupernodeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where peers reach the supernode, and how it leads them."""

    host: Host = "127.0.0.1"
    """Where the control connections and the operations endpoints listen. Peers on other machines need another one."""

    port: Port = 5090

    origin_slots: Annotated[int, Meta(ge=1, le=64)] = ORIGIN_SLOTS
    """Leases given out at a time for one origin, over all its blobs (the rule is in `supernode.leases`), and up to half
    as many that are in their last piece."""

    announce_interval: Annotated[Duration, Meta(ge=0.1, le=3600)] = 5.0
    """Peers announce themselves at least this often; one that is silent for three intervals is forgotten."""

    handout: Annotated[int, Meta(ge=1, le=1000)] = MAX_NEIGHBOURS
    """Neighbours of a peer for each blob: all others up to so many, else about so many."""

    tag_freshness: Annotated[Duration, Meta(ge=0, le=30 * 24 * 3600)] = 60.0
    """How long the cluster takes the origin's word for what a tag stands for."""
