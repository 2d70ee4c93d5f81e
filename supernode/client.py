"""A peer's half of the control connection: kept alive, opened again with backoff, and the questions asked over it."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import aiohttp
import msgspec
import structlog
import tenacity

from shoal.descriptor import Descriptor
from shoal.digest import Digest
from shoal.handshake import NONCE_SIZE, SEAL_SIZE, SUPERNODE, UNSEALED, Initiator, NotAMember, Session, Unsealed
from shoal.limits import LimitSettings
from shoal.membership import Membership
from shoal.messages import InvalidMessage
from shoal.reference import Location, Registry, Repository, Tag
from supernode import protocol
from supernode.report import Watch

log = structlog.get_logger()

_CONNECT_SECONDS = 2.5
"""Longer than an answer takes; a SYN that was lost is sent again after 1 s, 3 s and 7 s, a new one at once."""
_HEARTBEAT_SECONDS = 3.0
"""A supernode that says nothing for so long is asked, and gone after half as long again: a link that is cut looks as if
nothing were to be said, and what readers wait for comes by rescues alone (`peer.waiting`) until it is known."""
_CLOSE_SECONDS = 1.0
_PROBE_SECONDS = 3.5
"""Others have 3 s to try to reach this peer."""
_BACKOFF = tenacity.wait_random_exponential(multiplier=0.1, max=1.0)
"""A supernode that is back grants leases 1.5 s after the first peer has returned: by then all are to be back."""
_PAUSE_SECONDS, _FAULT_SECONDS = 0.1, 1.0
"""Before the next connection is tried, and so long where this one ended by a fault or was refused."""


class NotASupernode(Exception):
    """Something else than a supernode answers at its address."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is no connection to the supernode. `kind`: `unreachable`, `broken`, `refused` by it, or a `stranger`,
    which one side is to the other; empty as long as nothing was wrong. `text` is for people."""

    kind: str
    text: str


NO_TROUBLE = Trouble("", "")

Preheating = protocol.Preheat | protocol.CancelPreheat | protocol.KeepPins | protocol.ListTags
"""What the supernode says of preheating."""


class Listener(Protocol):
    """Who is told what comes over the control connection."""

    def hello(self) -> protocol.Hello:
        """The first message of each new connection."""

    def welcomed(self, announce_interval: float) -> None:
        """The supernode knows this peer now and nothing of its blobs."""

    def receive(self, message: protocol.FromSupernode) -> None:
        """A message that is no answer to a question of this client."""

    def lost(self) -> None:
        """The connection is gone; another one is tried for."""


class ControlClient:
    """The control connection to the supernode at `url` (`http://host:port`)."""

    def __init__(self, url: str, *, wait: float = 2.0, membership: Membership | None = None) -> None:
        """`wait`: the longest time in seconds that a question waits for its answer. Without a membership any supernode
        is taken."""
        self._membership = Membership() if membership is None else membership
        self._session: Session | Unsealed = UNSEALED
        self._url = url.rstrip("/") + protocol.PATH
        self.wait = wait
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._queries = itertools.count(1)
        self._answers: dict[int, asyncio.Future[protocol.Resolved]] = {}
        self._probes: dict[int, asyncio.Future[protocol.Probed]] = {}
        self._answers_probes = False
        self.connected = False
        self.trouble = NO_TROUBLE
        """Why there is no connection, as was seen last."""
        self.heard_at = 0.0
        """When the supernode said something last, in seconds since the epoch; 0 before the first time."""
        self.quietened: Callable[[Registry, float], None] = lambda _, __: None
        """Called when the cluster says that an upstream is to be left alone for so many seconds."""
        self.confirming: Callable[[protocol.Confirm], None] = self._cannot_confirm
        """Called when the supernode wants to hear of this node too what the origin says; answered by `publish`."""
        self.visiting: Callable[[protocol.Visit], None] = lambda _: None
        """Called when the supernode wants to know whether another peer is reached from here; answered by `send`."""
        self.limited: Callable[[LimitSettings], None] = lambda _: None
        """Called when the supernode says what is to hold where this node says nothing."""
        self.watching: Callable[[Watch], None] = lambda _: None
        """Called when the supernode wants reports of this node, or other ones; answered by `send`."""
        self.preheating: Callable[[Preheating], None] = lambda _: None
        """Called when the supernode wants something to be preheated, or no more; answered by `send`."""
        self.refreshed: Callable[[Location], None] = lambda _: None
        """Called when somebody in the cluster wants a repository to be asked for anew."""
        self.denied: Callable[[Location, str], None] = lambda _, __: None
        """Called when the origin has told another node that this identity may not read a repository any more."""

    async def run(self, listener: Listener) -> None:
        """Keep the connection until cancelled. A fault of the listener's ends a connection, and another one is made."""
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    await self._connection(session, listener)
                    await asyncio.sleep(_PAUSE_SECONDS)
                except NotAMember as error:
                    self.trouble = Trouble("stranger", str(error))
                    log.warning("supernode.not_of_this_cluster", url=self._url, reason=str(error))
                    await asyncio.sleep(_FAULT_SECONDS)
                except ConnectionError as error:  # while a ping was answered
                    self.trouble = Trouble("broken", str(error) or repr(error))
                    log.warning("supernode.broken", url=self._url, error=self.trouble.text)
                    await asyncio.sleep(_PAUSE_SECONDS)
                except Exception:  # a fault of ours: without this task the node would never reach the supernode again
                    log.exception("supernode.connection_failed", url=self._url)
                    await asyncio.sleep(_FAULT_SECONDS)

    async def _connection(self, session: aiohttp.ClientSession, listener: Listener) -> None:
        """One connection, from the first attempt to its end."""
        retrying = tenacity.AsyncRetrying(
            wait=_BACKOFF,
            retry=tenacity.retry_if_exception_type((aiohttp.ClientError, OSError, TimeoutError)),
            before_sleep=self._log_failure,
        )
        socket: aiohttp.ClientWebSocketResponse = await retrying(self._connect, session, listener)
        try:
            await self._converse(socket, listener)
        finally:
            self._disconnected(listener)
            await socket.close()

    def send(self, message: protocol.FromPeer) -> None:
        """Send a message, or drop it where there is no connection: after the next `welcomed` all is told anew."""
        if self.connected:
            self._outgoing.put_nowait(protocol.from_peer.encode(message))

    async def resolve(
        self, location: Location, reference: Tag | Digest, kind: str, identity: str, max_age: float
    ) -> protocol.Resolved | None:
        """Ask what `reference` stands for. None: no supernode, or no answer in time; then ask the origin.

        `identity`: as whom this node would ask the origin. An answer is at most `max_age` seconds old.
        """
        if not self.connected:
            return None
        query = next(self._queries)
        answer = self._answers[query] = asyncio.get_running_loop().create_future()
        self.send(protocol.Resolve(query, location.registry, location.repository, reference, kind, identity, max_age))
        try:
            return await asyncio.wait_for(answer, self.wait)
        except TimeoutError:
            return None
        finally:
            self._answers.pop(query, None)

    def publish(
        self,
        location: Location,
        reference: Tag | Digest,
        kind: str,
        identity: str,
        descriptor: Descriptor | None,
        *,
        missing: bool,
        denied: bool = False,
    ) -> None:
        """Tell what the origin said to this identity; None where it could not be asked, has nothing or refused."""
        found = (descriptor.digest, descriptor.size, descriptor.media_type) if descriptor is not None else ("", 0, "")
        place = location.registry, location.repository, reference, kind
        self.send(protocol.Publish(*place, *found, identity, missing, denied))

    def _cannot_confirm(self, message: protocol.Confirm) -> None:
        place = message.registry, message.repository, message.reference, message.kind
        self.send(protocol.Publish(*place, identity=message.identity))

    async def probe(self) -> protocol.Probed | None:
        """Ask whether others reach this peer. None: no supernode that knows the question, or no answer in time."""
        if not self.connected or not self._answers_probes:
            return None
        query = next(self._queries)
        answer = self._probes[query] = asyncio.get_running_loop().create_future()
        self.send(protocol.Probe(query))
        try:
            return await asyncio.wait_for(answer, _PROBE_SECONDS)
        except TimeoutError:
            return None
        finally:
            self._probes.pop(query, None)

    def quiet(self, registry: Registry, seconds: float) -> None:
        """Tell that an upstream has answered 429."""
        self.send(protocol.Quiet(registry, seconds))

    def refresh(self, location: Location) -> None:
        """Have the cluster ask the origin anew for a repository."""
        self.send(protocol.Refresh(location.registry, location.repository))

    async def _connect(self, session: aiohttp.ClientSession, listener: Listener) -> aiohttp.ClientWebSocketResponse:
        hello = listener.hello()
        async with asyncio.timeout(_CONNECT_SECONDS):
            socket = await _opened(session, self._url, self._membership)
            try:
                self._session = await _proved(socket, self._membership, hello.peer)
                await socket.send_bytes(self._session.seal(protocol.from_peer.encode(hello)))
            except BaseException:
                await socket.close()
                raise
            return socket

    def _log_failure(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        self.trouble = Trouble("unreachable", str(error) or repr(error))
        log.warning("supernode.unreachable", url=self._url, attempt=state.attempt_number, error=self.trouble.text)

    async def _converse(self, socket: aiohttp.ClientWebSocketResponse, listener: Listener) -> None:
        self._outgoing = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write(socket, self._outgoing))
            try:
                await self._read(socket, listener)
            finally:
                writing.cancel()

    async def _write(self, socket: aiohttp.ClientWebSocketResponse, outgoing: asyncio.Queue[bytes]) -> None:
        try:
            while True:
                data = await outgoing.get()
                await socket.send_bytes(self._session.seal(data))
        except (ConnectionError, aiohttp.ClientError) as error:
            log.warning("supernode.not_writable", error=repr(error))
            await socket.close()  # ends the reading too

    async def _read(self, socket: aiohttp.ClientWebSocketResponse, listener: Listener) -> None:
        async for frame in socket:
            if frame.type is not aiohttp.WSMsgType.BINARY:
                break
            try:
                message = protocol.from_supernode.decode(self._session.open(memoryview(frame.data)))
            except InvalidMessage as error:
                log.warning("supernode.invalid_message", error=str(error))
                break
            self.heard_at = time.time()
            match message:
                case protocol.Welcome():
                    self.connected, self._answers_probes = True, message.probes
                    log.info("supernode.joined", url=self._url)
                    listener.welcomed(message.announce_interval)
                case protocol.Refused():
                    self.trouble = Trouble("refused", message.reason)
                    log.warning("supernode.refused", reason=message.reason)
                    await asyncio.sleep(_FAULT_SECONDS)
                    break
                case protocol.Resolved():
                    answer = self._answers.pop(message.query, None)
                    if answer is not None and not answer.done():
                        answer.set_result(message)
                case protocol.Probed():
                    probe = self._probes.pop(message.query, None)
                    if probe is not None and not probe.done():
                        probe.set_result(message)
                case protocol.Visit():
                    self.visiting(message)
                case protocol.Limits():
                    self._limited(message)
                case Watch():
                    self.watching(message)
                case protocol.Preheat() | protocol.CancelPreheat() | protocol.KeepPins() | protocol.ListTags():
                    self.preheating(message)
                case protocol.Confirm():
                    self.confirming(message)
                case protocol.Quiet():
                    self.quietened(Registry(message.registry), message.seconds)
                case protocol.Refresh():
                    location = Location(Registry(message.registry), Repository(message.repository))
                    self.refreshed(location)
                    if message.denied:
                        self.denied(location, message.denied)
                case _:
                    listener.receive(message)

    def _limited(self, message: protocol.Limits) -> None:
        try:
            self.limited(LimitSettings(**msgspec.structs.asdict(message)))
        except ValueError as error:
            log.warning("supernode.invalid_limits", error=str(error))

    def _disconnected(self, listener: Listener) -> None:
        was, self.connected = self.connected, False
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(protocol.Resolved(0, "failed"))
        self._answers.clear()
        if was:
            log.warning("supernode.lost", url=self._url)
            try:
                listener.lost()
            except Exception:  # raised from here it could take the place of a cancellation
                log.exception("supernode.listener_failed")


async def prove(url: str, membership: Membership) -> None:
    """Connect to the supernode at `url`, have each side prove its membership to the other, and hang up.

    Raises `NotASupernode`, `NotAMember`, `aiohttp.ClientError`, `OSError`.
    """
    async with aiohttp.ClientSession() as session:
        try:
            socket = await _opened(session, url.rstrip("/") + protocol.PATH, membership)
        except aiohttp.WSServerHandshakeError as error:
            raise NotASupernode(f"it answers {error.status} to {protocol.PATH}") from None
        try:
            await _proved(socket, membership, secrets.token_hex(16))
        finally:
            await socket.close()


async def _opened(session: aiohttp.ClientSession, url: str, membership: Membership) -> aiohttp.ClientWebSocketResponse:
    tls = membership.tls
    return await session.ws_connect(
        url,
        ssl=True if tls is None else tls.to_supernode,
        max_msg_size=protocol.MAX_MESSAGE_SIZE + SEAL_SIZE,
        compress=0,
        heartbeat=_HEARTBEAT_SECONDS,
        timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
    )


async def _proved(socket: aiohttp.ClientWebSocketResponse, membership: Membership, peer: str) -> Session | Unsealed:
    """The session with a supernode that knows the cluster's secret, as this node does; raises `NotAMember`."""
    keys = membership.keys
    if not keys:
        return UNSEALED
    handshake = Initiator(keys[0], "control", peer, SUPERNODE, secrets.token_bytes(NONCE_SIZE))
    message: bytes | None = handshake.opening()
    while message is not None:
        await socket.send_bytes(message)
        frame = await socket.receive()
        if frame.type is not aiohttp.WSMsgType.BINARY:
            raise NotAMember("the supernode ended the handshake")
        try:
            message = handshake.received(frame.data)
        except NotAMember as error:
            raise NotAMember(_refusal(frame.data) or str(error)) from None
    assert handshake.session is not None
    return handshake.session


def _refusal(data: bytes) -> str:
    """Why a supernode ends the connection, where it says so in clear."""
    try:
        message = protocol.from_supernode.decode(data)
    except InvalidMessage:
        return ""
    return f"the supernode says: {message.reason}" if isinstance(message, protocol.Refused) else ""
