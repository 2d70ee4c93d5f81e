"""What is examined: one node by its configuration, and what its daemon says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from shoal.cli.configuration import Configuration
from shoal.cli.doctor.node import NodeAnswer
from shoal.cli.doctor.runtimestates import RuntimeState
from shoal.cli.runtimes.host import Host


@dataclass(frozen=True, slots=True)
class Subject:
    """A node. Its daemon is asked once, as the runtimes are, and all parts that need the answers wait for them."""

    configuration: Configuration
    file: Path | None
    """Where the configuration stands, besides variables and flags."""
    host: Host
    """Whose files tell of runtimes."""
    image: str
    """What is to be resolved through the mirror; empty for none."""
    asking: asyncio.Task[NodeAnswer]
    checking: asyncio.Task[list[RuntimeState]]

    async def node(self) -> NodeAnswer:
        """What the daemon says."""
        return await asyncio.shield(self.asking)

    async def runtimes(self) -> list[RuntimeState]:
        """How the host's runtimes are configured."""
        return await asyncio.shield(self.checking)

    async def supernode(self) -> str:
        """The supernode's address: the configuration's, else the one that the daemon was started with; may be empty."""
        configured = self.configuration.peer.supernode
        if configured:
            return configured
        checkup = (await self.node()).checkup
        return "" if checkup is None else checkup.particulars.supernode
