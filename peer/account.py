"""Where the time of a client's request went, and where the bytes came from that it was given. No I/O, no clock.

At any moment a request waits for one thing, or bytes flow to its client from one source: so what is counted under all
causes together is the time from its begin to its end. Whoever begins to wait for something says so to the account of
the task that it runs in (`waiting_for`); what a reader of a blob waits for is looked up in the machine (`peer.causes`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from enum import StrEnum

from peer.sink import Source


class Cause(StrEnum):
    """What a moment of a request went by for."""

    CLIENT = "client"
    """Bytes were there, and the client took them at its pace."""
    PEERS = "peers"
    """Neighbours were sending what the client needs next, or other pieces of the blob before it."""
    ORIGIN = "origin"
    """An origin was sending it."""
    TAG = "tag"
    """For what the reference stands for, or for leave to give it, as the origin or another request's answer says."""
    RESOLVE = "resolve"
    """For the supernode's word on what the reference stands for."""
    TOKEN = "token"
    """For credentials of an origin: a credential helper or a token server."""
    ORIGIN_ANSWER = "origin_answer"
    """For the first byte of an answer of an origin."""
    ORIGIN_STALLED = "origin_stalled"
    """For an origin that had begun to send and went on with nothing."""
    ORIGIN_FAILED = "origin_failed"
    """For the next try, after an origin had failed."""
    RATE_LIMITED = "rate_limited"
    """For an origin that had answered 429, or of which the cluster knew that it does."""
    HANDOUT = "handout"
    """For the supernode's word on who has the blob."""
    SUPERNODE_GONE = "supernode_gone"
    """For a supernode that could not be reached, before the origin was asked without it."""
    LEASE = "lease"
    """For the supernode's leave to fetch from the origin, which others had before."""
    NEIGHBOUR = "neighbour"
    """For a connection to a neighbour, or its first word."""
    NEIGHBOUR_BUSY = "neighbour_busy"
    """For neighbours that had as much to send already as they may."""
    NEIGHBOUR_SILENT = "neighbour_silent"
    """For a neighbour that was asked and sent nothing."""
    ELSEWHERE = "elsewhere"
    """For pieces that other nodes were fetching from the origin."""
    LIMIT = "limit"
    """For this node's own limits of what it fetches."""
    ROOM = "room"
    """For a place among the blobs that may be on their way at a time."""
    DISK = "disk"
    """For a piece that was being checked and written."""
    VERIFYING = "verifying"
    """For the check of the whole blob, before which the last bytes are not given."""
    NODE = "node"
    """For this node itself."""
    BETWEEN = "between"
    """Of a pull: its client asked for nothing, as long as it unpacks what it has."""


FLOWING = frozenset({Cause.CLIENT, Cause.PEERS, Cause.ORIGIN})
"""Under these, bytes move."""


class Account:
    """One request's time, in seconds of any monotonic clock, and its bytes."""

    def __init__(self, now: float) -> None:
        self.began_at = now
        self.cause = Cause.NODE
        self.seconds: dict[Cause, float] = {}
        self.given: dict[Source, int] = {}
        self.first_byte_at: float | None = None
        self.changing: Callable[[float], None] = lambda _: None
        """Told of each moment at which the cause is about to change."""
        self._since = now
        self._is_closed = False

    def turn(self, cause: Cause, now: float) -> None:
        """From now on time goes by for this."""
        if cause is not self.cause and not self._is_closed:
            self.changing(now)
            self._settle(now)
            self.cause = cause

    def close(self, now: float) -> None:
        """The request is over; who is late to tell of it counts for nothing."""
        if not self._is_closed:
            self._settle(now)
            self._is_closed = True

    def _settle(self, now: float) -> None:
        self.seconds[self.cause] = self.seconds.get(self.cause, 0.0) + max(0.0, now - self._since)
        self._since = max(self._since, now)

    def gave(self, source: Source, count: int, now: float) -> None:
        """Bytes went to the client that came from `source`."""
        if self.first_byte_at is None:
            self.first_byte_at = now
        self.given[source] = self.given.get(source, 0) + count


_current: ContextVar[Account | None] = ContextVar("account", default=None)


def current_account() -> Account:
    """The account of the running task; one that nobody reads where it has none."""
    return _current.get() or Account(time.monotonic())


@contextlib.contextmanager
def accounted(account: Account) -> Iterator[None]:
    """What this task waits for meanwhile is for this account."""
    token = _current.set(account)
    try:
        yield
    finally:
        _current.reset(token)


@contextlib.contextmanager
def waiting_for(cause: Cause) -> Iterator[None]:
    """The running task's request waits for this meanwhile, and then for what it waited for before."""
    account = _current.get()
    if account is None:
        yield
        return
    before = account.cause
    account.turn(cause, time.monotonic())
    try:
        yield
    finally:
        account.turn(before, time.monotonic())
