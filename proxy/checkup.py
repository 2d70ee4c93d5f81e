"""What a node tells `shoal doctor` of itself, over the operations port."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from peer.engine import Engine
from peer.reachability import Reachability
from proxy.clientele import Clientele
from supernode.client import NO_TROUBLE, ControlClient
from supernode.protocol import Probed

CHECKUP_PATH = "/v1/checkup"

_DESCRIPTORS = Path("/proc/self/fd")
_LATELY_SECONDS = 600.0


class Particulars(msgspec.Struct, frozen=True):
    """Which daemon this is, by what it was started with."""

    pid: int
    version: str
    store: str
    proxy: str
    """Where clients reach it, `host:port`."""
    peer: str
    """Where other peers do."""
    supernode: str
    """The supernode's address; empty where it has none."""
    configured: float
    """Seconds since it read its configuration, at its start or later."""


class FailedCall(msgspec.Struct, frozen=True):
    """An address of another peer that could not be called; `outcome` is one of `supernode.protocol.Outcome`."""

    host: str
    port: int
    outcome: str
    since: float
    """Seconds since the first failure in a row."""
    last: float
    """Seconds since the last one."""
    times: int


class SilentNeighbour(msgspec.Struct, frozen=True):
    """Another peer that was connected, was asked for pieces and sent nothing."""

    host: str
    since: float
    """Seconds since that was first so, and no larger piece has come from it since."""
    last: float
    """Seconds since the last time."""
    times: int


class Asker(msgspec.Struct, frozen=True):
    """A kind of client, and how many seconds ago it asked last."""

    program: str
    seconds: float
    requests: int


class Checkup(msgspec.Struct, frozen=True):
    """One node at one moment."""

    particulars: Particulars
    uptime: float
    """Seconds."""
    supernode_connected: bool
    trouble: str
    """Why it is not: one of the kinds of `supernode.client.Trouble`."""
    trouble_text: str
    """The same for people."""
    neighbours: int
    """Connected peers."""
    visitors: int
    """Calls of other peers that came."""
    turned_away: str
    """From where somebody came last, within the last ten minutes, who did not prove to be a member; else empty."""
    failed_calls: list[FailedCall]
    silent: list[SilentNeighbour]
    probe: Probed | None
    """What others have seen who tried to reach this node; None where there was nobody to ask for it."""
    askers: list[Asker]
    received: dict[str, int]
    """Bytes of blobs by where they came from, `origin` or `peer`."""
    descriptors: int
    """File descriptors that are open."""
    max_descriptors: int


class Checkups:
    """Makes a node's checkups."""

    def __init__(
        self, introduce: Callable[[], Particulars], engine: Engine, control: ControlClient | None, clientele: Clientele
    ) -> None:
        """`control` is None where there is no supernode."""
        self._introduce = introduce
        self._engine = engine
        self._control = control
        self._clientele = clientele
        self._began = time.monotonic()

    async def make(self) -> Mapping[str, object]:
        """How the node is now, as JSON has it. Others are asked to call it, which takes some seconds."""
        engine, control = self._engine, self._control
        probe = None if engine.visiting is None else await engine.visiting.probe()
        now = time.monotonic()
        ways = engine.neighbours.reachability
        trouble = NO_TROUBLE if control is None or control.connected else control.trouble
        checkup = Checkup(
            self._introduce(),
            now - self._began,
            control is not None and control.connected,
            trouble.kind,
            trouble.text,
            len(engine.neighbours.all),
            ways.visitors,
            _turned_away(ways, now),
            [
                FailedCall(host, port, failure.outcome, now - failure.since, now - failure.last, failure.times)
                for (host, port), failure in ways.failures.items()
            ],
            [
                SilentNeighbour(ways.places[peer].host, now - silence.since, now - silence.last, silence.times)
                for peer, silence in engine.machine.exchange.requests.silences.items()
                if peer in ways.places
            ],
            probe,
            [
                Asker(name, now - program.asked_at, program.requests)
                for name, program in self._clientele.programs.items()
            ],
            engine.tally.received,
            sum(1 for _ in _DESCRIPTORS.iterdir()),
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )
        built: dict[str, object] = msgspec.to_builtins(checkup)
        return built


def _turned_away(ways: Reachability, now: float) -> str:
    if ways.turned_away is None:
        return ""
    address, at = ways.turned_away
    return address if now - at < _LATELY_SECONDS else ""
