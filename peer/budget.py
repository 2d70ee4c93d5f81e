"""How much a node holds open at a time, so that no crowd of clients, peers or layers uses up its file descriptors."""

from __future__ import annotations

import resource
from dataclasses import dataclass

MIN_DESCRIPTORS = 64
_PER_CLIENT = 2
"""A client's connection is a socket, and the file that it is served from."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a node may hold at a time; the most that is useful, where there are descriptors enough."""

    open_blobs: int = 256
    """Blobs in progress whose data file is open; others wait, or are streamed without being kept."""
    peer_connections: int = 1024
    """Connections to and from peers that have said who they are."""
    strangers: int = 128
    """Accepted connections that have not said who they are."""
    client_connections: int = 4096
    """Connections of the proxy's clients, each with one file that it is served from."""
    origin_connections: int = 256
    """Connections to origins."""

    @classmethod
    def of(cls, descriptors: int) -> Budget:
        """The budget of a process that may have so many descriptors; raises `ValueError` below `MIN_DESCRIPTORS`.

        The shares are those of a node that serves about as many clients as peers.
        """
        if descriptors < MIN_DESCRIPTORS:
            raise ValueError(f"{descriptors} file descriptors are too few: at least {MIN_DESCRIPTORS} are needed")
        free, most = descriptors - reserve(descriptors) - 1, cls()
        return cls(
            open_blobs=min(free // 8, most.open_blobs),
            peer_connections=min(free // 4, most.peer_connections),
            strangers=min(free // 16, most.strangers),
            client_connections=min(free // 2 // _PER_CLIENT, most.client_connections),
            origin_connections=min(free // 16, most.origin_connections),
        )

    @property
    def descriptors(self) -> int:
        """The file descriptors that all of it takes together."""
        return (
            self.open_blobs
            + self.peer_connections
            + self.strangers
            + _PER_CLIENT * self.client_connections
            + self.origin_connections
        )


def reserve(descriptors: int) -> int:
    """Descriptors for the rest: listening sockets, the event loop, logs, the store's index, uploads, checkpoints."""
    return 32 + descriptors // 16


def raise_descriptor_limit() -> int:
    """Let this process have as many file descriptors as it may; returns that number, which on Linux is finite."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
