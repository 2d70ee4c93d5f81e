"""All preheats of a cluster: takes orders, has nodes told, and writes down how jobs go."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Self

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from shoal.changes import OrderRefused
from shoal.reference import Location, Reference
from supernode import protocol
from supernode.preheating.archive import Archive
from supernode.preheating.jobs import Job, JobState, TaskState, Tell
from supernode.preheating.order import PreheatOrder
from supernode.preheating.selection import Selection
from supernode.protocol import PeerId
from supernode.roster import Node, Roster

log = structlog.get_logger()

_DECIDE_SECONDS, _WRITE_SECONDS = 0.25, 5.0
_MAX_RUNNING = 64
_MAX_FINISHED = 100
_MAX_TASKS, _MAX_FINISHED_TASKS = 200_000, 500_000
"""Images on nodes: of one job, and of all jobs that are over and still shown."""
_ANSWER_SECONDS, _MAX_ASKED = 30.0, 3
"""For which a node may list tags, and how many nodes are asked for them: one may be sick, or lack credentials."""

Send = Callable[[PeerId, protocol.FromSupernode], None]


class Crowded(OrderRefused):
    """As many preheats are running as may."""


class BoardMetrics:
    """What Prometheus is told of preheats."""

    def __init__(self, registry: CollectorRegistry, board: PreheatBoard) -> None:
        self.ended = Counter(
            "shoal_supernode_preheats_total", "Preheats that have ended, by outcome.", ["outcome"], registry=registry
        )
        self.images = Counter(
            "shoal_supernode_preheated_images_total",
            "Images that preheats were to bring to a node, by outcome on each node.",
            ["outcome"],
            registry=registry,
        )
        for outcome in (JobState.DONE, JobState.FAILED, JobState.CANCELLED):
            self.ended.labels(outcome)
            self.images.labels(outcome)
        running = Gauge("shoal_supernode_preheats_running", "Preheats that have not ended.", registry=registry)
        running.set_function(lambda: sum(not job.is_over for job in board.jobs.values()))


class PreheatBoard:
    """The jobs, as an async context manager: jobs of before a restart go on in it."""

    def __init__(
        self,
        roster: Roster,
        send: Send,
        refresh: Callable[[Location], None],
        archive: Archive,
        registry: CollectorRegistry,
        rng: random.Random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`send` gives a message to a node that is here. `refresh` has the cluster ask the registry anew what the tags
        of a repository stand for. `clock`: seconds since the epoch."""
        self._roster = roster
        self._send = send
        self._refresh = refresh
        self._archive = archive
        self._rng = rng
        self._clock = clock
        self._metrics = BoardMetrics(registry, self)
        self._written: dict[str, int] = {}
        """The version in which each job stands on the disk."""
        self._queries: dict[tuple[PeerId, int], asyncio.Future[protocol.Tags]] = {}
        self._last_query = 0
        self._is_due = asyncio.Event()
        """Whether jobs are to be written down at once."""
        self.jobs: dict[str, Job] = {}
        """By their ids, the oldest first."""
        self.ended: Callable[[Job], None] = lambda _: None
        """Called with each job that is over."""
        self.node_joined: Callable[[Node], None] = lambda _: None
        """Called with each node that is here."""

    async def __aenter__(self) -> Self:
        now = self._clock()
        for record in await asyncio.to_thread(self._archive.read):
            for run in record.nodes:
                run.is_here, run.away_since = False, now
            job = self.jobs[record.id] = Job(record)
            self._written[job.id] = job.version
        for node in self._roster:
            self.joined(node)
        self._tasks = [asyncio.create_task(self._decide_on()), asyncio.create_task(self._write_on())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._write()

    # --- orders -----------------------------------------------------------------------------------------------------

    def order(self, order: PreheatOrder, by: str, pin_owner: str = "") -> Job:
        """Begin a job; raises `OrderRefused`, which may be `Crowded`."""
        if sum(not job.is_over for job in self.jobs.values()) >= _MAX_RUNNING:
            raise Crowded(f"{_MAX_RUNNING} preheats are running already")
        here = list(self._roster)
        if not here:
            raise OrderRefused("no node has joined this supernode")
        chosen = Selection.parse(order.nodes).choose(here, self._rng)
        if not chosen:
            raise OrderRefused(f"no node that is here is meant by {order.nodes!r}")
        if len(chosen) * len(order.images) > _MAX_TASKS:
            raise OrderRefused(f"more than {_MAX_TASKS} images on nodes in one preheat")
        now = self._clock()
        job = Job.begin(secrets.token_hex(6), order, chosen, by, now, pin_owner)
        self.jobs[job.id] = job
        log.info("preheat.ordered", id=job.id, by=by, images=len(order.images), nodes=len(chosen))
        self._forget()
        self.decide(job)
        self._is_due.set()
        return job

    async def refresh(self, images: Iterable[str]) -> None:
        """Have the cluster ask registries anew what the tags of these images stand for, to be called before an order:
        what was pushed a moment ago is what is meant."""
        references = map(Reference.parse, images)
        named = {Location(each.registry, each.repository): None for each in references if each.digest is None}
        for location in named:
            self._refresh(location)
            await asyncio.sleep(0)

    def cancel(self, job: Job) -> None:
        """Have a job stop; what is complete stays."""
        self._tell(job.cancel(self._clock()))
        log.info("preheat.cancelled", id=job.id)
        self.decide(job)
        self._is_due.set()

    # --- nodes ------------------------------------------------------------------------------------------------------

    def joined(self, node: Node) -> None:
        """A node is here."""
        now = self._clock()
        for job in self.jobs.values():
            job.joined(node, now)
        self.node_joined(node)

    def left(self, peer: PeerId) -> None:
        """A node has gone."""
        now = self._clock()
        for job in self.jobs.values():
            job.left(peer, now)

    def heard(self, peer: PeerId, message: protocol.PreheatProgress | protocol.Tags) -> None:
        """A node tells something."""
        if isinstance(message, protocol.Tags):
            query = self._queries.get((peer, message.query))
            if query is not None and not query.done():
                query.set_result(message)
            return
        job = self.jobs.get(message.job)
        if job is not None:
            self._tell(job.heard(peer, message, self._clock()))

    def nodes(self) -> list[Node]:
        """The nodes that are here."""
        return list(self._roster)

    def tell(self, peer: PeerId, message: protocol.FromSupernode) -> None:
        """Tell a node something."""
        self._send(peer, message)

    async def tags(self, registry: str, repository: str, pattern: str, nodes: Selection) -> list[str]:
        """The tags of a repository that match a pattern, as one of these nodes is told by the registry, or another one
        where it is told none. Raises `OrderRefused`."""
        able = [node for node in self._roster if node.preheats and nodes.takes(node)]
        refused = OrderRefused("no node is here that could list the tags")
        for node in self._rng.sample(able, min(len(able), _MAX_ASKED)):
            try:
                return await self._tags_of(node, registry, repository, pattern)
            except OrderRefused as error:
                refused = error
        raise refused

    async def _tags_of(self, node: Node, registry: str, repository: str, pattern: str) -> list[str]:
        self._last_query += 1
        query = self._last_query
        answer = self._queries[node.peer, query] = asyncio.get_running_loop().create_future()
        try:
            self._send(node.peer, protocol.ListTags(query, registry, repository, pattern))
            async with asyncio.timeout(_ANSWER_SECONDS):
                tags: protocol.Tags = await answer
        except TimeoutError:
            raise OrderRefused(f"the node {node.name} did not list the tags in time") from None
        finally:
            del self._queries[node.peer, query]
        if tags.error:
            raise OrderRefused(f"the node {node.name} cannot list the tags: {tags.error}")
        return tags.tags

    # --- time -------------------------------------------------------------------------------------------------------

    async def _decide_on(self) -> None:
        while True:
            await asyncio.sleep(_DECIDE_SECONDS)
            try:
                for job in list(self.jobs.values()):
                    self.decide(job)
            except Exception:  # a fault of ours in one round
                log.exception("preheat.deciding_failed")

    def decide(self, job: Job) -> None:
        """Have a job go on as it should now."""
        if job.is_over:
            return
        self._tell(job.decide(self._clock()))
        if job.is_over:
            self._metrics.ended.labels(job.state).inc()
            counts = job.count()
            for outcome in (TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED):
                self._metrics.images.labels(outcome).inc(counts[outcome])
            log.info("preheat.ended", id=job.id, state=job.state, **{str(state): n for state, n in counts.items() if n})
            self.ended(job)

    def _tell(self, told: list[Tell]) -> None:
        for each in told:
            self._send(each.peer, each.message)

    def _forget(self) -> None:
        """Jobs that are over are shown as long as there are not too many."""
        over = [job for job in self.jobs.values() if job.is_over]
        tasks = sum(len(job.record.nodes) * len(job.record.order.images) for job in over)
        while over and (len(over) > _MAX_FINISHED or tasks > _MAX_FINISHED_TASKS):
            oldest = over.pop(0)
            tasks -= len(oldest.record.nodes) * len(oldest.record.order.images)
            del self.jobs[oldest.id]
            self._written.pop(oldest.id, None)
            self._archive.remove(oldest.id)

    async def _write_on(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WRITE_SECONDS):
                    await self._is_due.wait()
            self._is_due.clear()
            try:
                await self._write()
            except Exception:  # a fault of ours in one round
                log.exception("preheat.writing_failed")

    async def _write(self) -> None:
        for job in list(self.jobs.values()):
            version = job.version
            if self._written.get(job.id) != version:
                content = msgspec.json.encode(job.record)
                await asyncio.to_thread(self._archive.write, job.id, content)
                self._written[job.id] = version
