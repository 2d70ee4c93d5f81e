"""The supernode's part of the configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from shoal.daemonsettings import OperationsSettings
from shoal.fields import LIVE, Duration, Host, Port
from shoal.limits import NO_LIMITS, LimitSettings
from supernode.handout import MAX_NEIGHBOURS
from supernode.leases import ORIGIN_SLOTS
from supernode.preheating.settings import PreheatSettings

SYSTEM_STATE = Path("/var/lib/shoal-supernode")
USER_STATE = Path("~/.local/share/shoal-supernode")
OPERATOR_TOKEN = "operator-token"


def default_state() -> Path:
    """Where a supernode's state is when nobody says so: the system's place for root, else below the home folder."""
    return SYSTEM_STATE if os.geteuid() == 0 else USER_STATE.expanduser()


class SupernodeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where peers reach the supernode, and how it leads them."""

    host: Host = "127.0.0.1"
    """Where peers reach the supernode. Peers on other machines need another one."""

    port: Port = 5090
    """The port for peers."""

    operations: OperationsSettings = OperationsSettings(port=5091)

    state: Path = msgspec.field(default_factory=default_state)
    """The folder of what outlives a restart, such as the operator's token. What swarms need is in memory alone.
    `/var/lib/shoal-supernode` for root, else `~/.local/share/shoal-supernode`."""

    audit: str = ""
    """A file to which each change by an operator adds a line of JSON; rotate it by renaming. Empty: none."""

    origin_slots: Annotated[int, Meta(ge=1, le=64), LIVE] = ORIGIN_SLOTS
    """Leases given out at a time for one origin, over all its blobs, and up to half as many that are in
    their last piece."""

    announce_interval: Annotated[Duration, Meta(ge=0.1, le=3600)] = 5.0
    """Peers announce themselves at least this often; one that is silent for three intervals is forgotten."""

    handout: Annotated[int, Meta(ge=1, le=1000), LIVE] = MAX_NEIGHBOURS
    """Neighbours of a peer for each blob: all others up to so many, else about so many."""

    tag_freshness: Annotated[Duration, Meta(ge=0, le=30 * 24 * 3600), LIVE] = 60.0
    """How long the cluster takes the origin's word for what a tag stands for."""

    limits: LimitSettings = NO_LIMITS
    """What each node sends and fetches at most where its own configuration says nothing."""

    preheat: PreheatSettings = PreheatSettings()

    @property
    def token_file(self) -> Path:
        """Where the operator's token is."""
        configured = self.operations.token_file
        return Path(configured).expanduser() if configured else self.state / OPERATOR_TOKEN
