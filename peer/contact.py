"""This peer at its supernode, where there is one: who it is, and what each says to the other."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import structlog

from peer.runner import Runner
from peer.settings import PeerSettings
from shoal.messages import InvalidMessage
from shoal.version import VERSION
from supernode import protocol
from supernode.client import ControlClient
from supernode.protocol import PeerId

log = structlog.get_logger()

_MAX_NAME = 128


class Contact:
    """What is said with no supernode, or while it is away, is said to nobody."""

    def __init__(
        self,
        control: ControlClient | None,
        peer: PeerId,
        port: Callable[[], int],
        settings: PeerSettings,
        runner: Runner,
    ) -> None:
        """`peer` is this one, and `port` the one on which others reach it."""
        self._control = control
        self._peer = peer
        self._port = port
        self._settings = settings
        self._runner = runner
        self._was_known = False

    async def run(self) -> None:
        """Keep the connection until cancelled."""
        if self._control is not None:
            await self._control.run(self)

    def send(self, message: protocol.FromPeer) -> None:
        """Tell the supernode."""
        if self._control is not None:
            self._control.send(message)

    # --- what the supernode says (supernode.client.Listener) --------------------------------------------------------

    def hello(self) -> protocol.Hello:
        """Who this peer is."""
        settings = self._settings
        return protocol.Hello(
            protocol.VERSION,
            self._peer,
            self._port(),
            settings.advertise,
            settings.zone,
            returning=self._was_known,
            confirms=True,
            name=settings.name or socket.gethostname()[:_MAX_NAME],
            labels=settings.labels,
            software=VERSION,
            visits=True,
            is_limited=True,
            reports=True,
            preheats=True,
        )

    def welcomed(self, announce_interval: float) -> None:
        """A supernode that knows nothing yet of this peer."""
        self._was_known = True
        self._runner.machine.joined(announce_interval, time.monotonic())
        self._runner.carry_out()

    def receive(self, message: protocol.FromSupernode) -> None:
        """A message of the supernode."""
        try:
            self._runner.machine.heard(message, time.monotonic())
        except (InvalidMessage, ValueError) as error:
            log.warning("supernode.invalid_message", kind=type(message).__name__, error=str(error))
        self._runner.carry_out_soon()

    def lost(self) -> None:
        """The supernode is gone."""
        self._runner.machine.lost(time.monotonic())
        self._runner.carry_out_soon()
