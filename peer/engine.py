"""One peer at work: puts its parts together, begins and ends them, and has them do what its machine decides."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Mapping
from typing import Self

import structlog
from prometheus_client import CollectorRegistry

from peer.arrivals import Arrivals
from peer.blob import BlobInProgress
from peer.budget import Budget
from peer.causes import Causes
from peer.commands import (
    Answer,
    Command,
    Dial,
    Discard,
    Fail,
    FailReaders,
    Fetch,
    HangUp,
    Hold,
    Land,
    Park,
    Send,
    Serve,
    StopFetch,
    Tell,
    TellTable,
)
from peer.condition import StoreCondition
from peer.contact import Contact
from peer.contentstore import ContentStore
from peer.downloads import Downloads
from peer.errors import Stopping
from peer.fetcher import Fetcher
from peer.figures import StoreFigures
from peer.holdings import Holdings
from peer.machine import Machine, MachineSettings
from peer.metrics import ContactMetrics, LimitMetrics, PeerMetrics
from peer.neighbours import Neighbours
from peer.offering import Offering
from peer.origin import Origin
from peer.piecespans import PieceSpans
from peer.presence import Presence
from peer.reporting import Reporting
from peer.runner import Runner
from peer.serving import Serving
from peer.settings import PeerSettings
from peer.store import Store
from peer.supply import Supply
from peer.tally import Tally
from peer.tasks import Tasks
from peer.throttle import Gate, Throttle
from peer.upkeep import Upkeep
from peer.visiting import Visiting
from peer.workers import Workers
from shoal.descriptor import BlobKey
from shoal.limitbook import LimitBook
from shoal.limits import Traffic
from shoal.membership import Membership
from shoal.traces import NO_TRACES, Traces
from supernode.client import ControlClient
from supernode.protocol import PeerId

log = structlog.get_logger()

_TICK_SECONDS = 0.25


class Engine:
    """One peer, as an async context manager. Its `supply` is what the proxy asks.

    `control` is None where there is no supernode, `content` where containerd's content store is not offered.
    """

    def __init__(
        self,
        settings: PeerSettings,
        store: Store,
        origin: Origin,
        control: ControlClient | None,
        registry: CollectorRegistry,
        budget: Budget,
        content: ContentStore | None = None,
        membership: Membership | None = None,
        traces: Traces = NO_TRACES,
    ) -> None:
        """Without a membership everybody is a member."""
        self.id = PeerId(secrets.token_hex(16))
        self.store = store
        self._tasks = Tasks()
        self._workers = workers = Workers()
        self._stack = contextlib.AsyncExitStack()
        self._throttle = throttle = Throttle(LimitMetrics(registry))
        holdings = Holdings(store, content)
        self.tally = tally = Tally()
        metrics = self._metrics = PeerMetrics(registry, tally)
        self.condition = StoreCondition(metrics)
        decisions = MachineSettings(settings.upload_slots, control is not None, settings.origin_wait)
        self.machine = Machine(decisions, holdings, random.Random(), time.monotonic())
        self.arrivals = Arrivals(lambda peer: self.neighbours.reachability.words(peer))
        self._runner = runner = Runner(
            self.machine,
            metrics,
            tally,
            self.arrivals,
            self._do,
            lambda peer, request: self._spans.heard(peer, request),
        )
        self.neighbours = Neighbours(
            self.id,
            settings.host,
            settings.port,
            runner,
            Membership() if membership is None else membership,
            throttle.peers,
            connections=budget.peer_connections,
            strangers=budget.strangers,
        )
        self._fetcher = Fetcher(origin, runner, self._gate, traces)
        self.machine.exchange.preheat = throttle.buckets[Traffic.PREHEAT]
        self.visiting = None if control is None else Visiting(control, self.neighbours, self._tasks)
        self.reporting: Reporting | None = None
        if control is not None:
            self.reporting = Reporting(
                control, self.machine, tally, store, metrics, lambda: len(self.neighbours.all), workers
            )
        self._contact = Contact(control, self.id, lambda: self.port, settings, runner)
        self.presence = presence = Presence(holdings, workers, self._contact, runner)
        self.causes = Causes(
            self.machine, self._fetcher.cause, lambda: throttle.holds_back(Traffic.DOWNLOAD), control is not None
        )
        self._downloads = Downloads(
            store,
            holdings,
            presence,
            self.condition,
            self._fetcher,
            runner,
            workers,
            self._tasks,
            budget,
            metrics,
            traces,
            self.causes,
        )
        runner.looks = self._downloads.look
        self._shelf = shelf = self._downloads.shelf
        self._spans = PieceSpans(traces, shelf.blobs)
        self.supply = Supply(
            store,
            holdings,
            presence,
            self.condition,
            shelf,
            runner,
            workers,
            image_ahead=settings.image_ahead,
            traces=traces,
        )
        self._serving = Serving(
            self.neighbours,
            metrics,
            tally,
            settings.upload_slots,
            shelf.open_file,
            runner.uploaded,
            presence.condemn,
            workers,
            self._tasks,
            throttle.upload,
            self._spans,
        )
        self.limits = LimitBook(settings.limits, self._limit)
        self._offering = Offering(content, workers, presence.offer, presence.withdraw) if content is not None else None
        self._upkeep = Upkeep(store, workers, settings.cache.scrub, presence, metrics)
        metrics.downloads.set_function(lambda: len(shelf.blobs))
        metrics.blobs.set_function(lambda: sum(1 for _ in holdings.digests()))
        metrics.neighbours.set_function(lambda: len(self.neighbours.all))
        metrics.streams.set_function(lambda: self.machine.exchange.streams)
        metrics.refusals, metrics.evicted = self.neighbours.refusals, store.evicted
        if control is not None:
            contact = ContactMetrics(registry)
            contact.connected.set_function(lambda: float(self.machine.connected))
            contact.heard_at.set_function(lambda: control.heard_at)

    def reconfigure(self, settings: PeerSettings) -> None:
        """What of the settings is live holds from now on, but for the store's limits."""
        self.machine.reconfigure(settings.upload_slots, settings.origin_wait)
        self._serving.resize(settings.upload_slots)
        self.supply.image_ahead = settings.image_ahead
        self._upkeep.reconfigure(settings.cache.scrub)
        self.limits.configure(settings.limits)

    @property
    def port(self) -> int:
        """The port on which other peers reach this one."""
        return self.neighbours.port

    async def measure(self) -> StoreFigures:
        """How full the store is, now."""
        return await self._upkeep.measure()

    @property
    def blobs(self) -> Mapping[BlobKey, BlobInProgress]:
        """The blobs on their way."""
        return self._shelf.blobs

    async def __aenter__(self) -> Self:
        loop, stack, running = asyncio.get_running_loop(), self._stack, self._tasks.running
        stack.callback(
            self.store.tell, self.store.tell(lambda lost: loop.call_soon_threadsafe(self.presence.lost, lost))
        )
        stack.callback(self._workers.close)
        stack.push_async_callback(self._tasks.settle)
        await stack.enter_async_context(self.neighbours)
        stack.push_async_callback(self._fetcher.close)
        await stack.enter_async_context(running(self._tick()))
        if self._offering is not None:
            await stack.enter_async_context(running(self._offering.run()))
        await stack.enter_async_context(running(self._upkeep.run()))
        if self.reporting is not None:
            await stack.enter_async_context(running(self.reporting.run()))
        await stack.enter_async_context(running(self._contact.run()))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(0.0)
        await self._stack.aclose()

    async def stop(self, grace: float) -> None:
        """No new blobs; those that somebody waits for may go on for `grace` seconds; then all state is saved."""
        self._shelf.stop()
        read = [blob for blob in self._shelf.blobs.values() if len(blob.readers)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await asyncio.gather(*(blob.finished.wait() for blob in read))
        verified = [blob for blob in self._shelf.blobs.values() if blob.readers.is_verified and not blob.passes]
        for key in [key for key, blob in self._shelf.blobs.items() if blob not in verified]:
            self.machine.fail(key, Stopping("the daemon is shutting down"))
        self._runner.carry_out()
        await self._shelf.saved()
        await asyncio.gather(*(blob.finished.wait() for blob in verified))

    def _gate(self, key: BlobKey) -> Gate:
        """What bytes of a blob pass that come from an origin."""
        sought = self.machine.sought.get(key)
        return self._throttle.preheat if sought is not None and sought.book.preheats else self._throttle.origin

    def _limit(self, traffic: Traffic, rate: float) -> None:
        """A limit is another one from now on."""
        self._throttle.change(traffic, rate)
        match traffic:
            case Traffic.UPLOAD:
                self._serving.limit(rate)
            case Traffic.DOWNLOAD:
                self.machine.exchange.requests.limit = rate
        log.info("limit.changed", traffic=traffic, bytes_per_second=rate)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            try:
                now = time.monotonic()
                for peer, connection in self.neighbours.all.items():
                    if connection.receiving:
                        self.machine.exchange.requests.moved(peer, connection.heard_at)
                self._serving.tick(self.machine.exchange.uploading.serving, now)
                self.machine.tick(now)
            except Exception:  # a fault of ours: without ticks nothing is announced and nobody is looked after
                log.exception("engine.tick_failed")
            self._runner.carry_out()

    def _send(self, command: Send) -> None:
        message = self._spans.sending(command.peers, command.message)
        self._metrics.answered(message)
        self.neighbours.send(command.peers, message)

    def _do(self, command: Command) -> None:
        """Have a command of the machine carried out."""
        match command:
            case Send():
                self._send(command)
            case Land():
                self._spans.came(command)
                self._tasks.own(self._downloads.land(command))
            case Serve():
                if not self._serving.serve(command.upload):
                    self._runner.unservable(command.upload)
            case Tell():
                self._contact.send(command.message)
            case Fetch():
                self._fetcher.start(command, self._shelf.blobs[command.blob])
            case StopFetch():
                self._fetcher.stop(command.stream)
            case Dial():
                self.neighbours.dial(command.peer, command.host, command.port)
            case HangUp():
                self.neighbours.hang_up(command.peer, command.reason, command.shun)
            case Discard():
                log.warning("blob.void", digest=command.blob.digest, pieces=command.pieces.bit_count())
                self._shelf.blobs[command.blob].discard(command.pieces)
            case Hold():
                self._shelf.blobs[command.blob].hold(command.now, command.later)
            case Fail():
                self._downloads.fail(command.blob, command.error)
            case FailReaders():
                self._shelf.blobs[command.blob].readers.fail(command.error, command.location)
            case Answer():
                self._shelf.blobs[command.blob].readers.answer(command.reader, command.error)
            case Park():
                self._downloads.park(command.blob)
            case TellTable():
                self._tasks.own(self.presence.tell_table(command.blob))
