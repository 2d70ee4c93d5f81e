"""One preheat as a state machine: images on nodes, a few nodes at a time, until each has them or cannot.

No I/O, no clock. Each image on each node is a task in exactly one state. Times are in seconds since the epoch, since
they outlive a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from supernode import protocol
from supernode.preheating.order import PreheatOrder
from supernode.preheating.selection import Selection
from supernode.protocol import PeerId, PreheatState
from supernode.roster import Node

_AWAY_SECONDS = 120.0
"""For which a node that has gone is waited for."""
_SILENT_SECONDS = 60.0
"""For which a node that is here says nothing of what it was asked for: it does each 5 s."""
_LOOK_SECONDS = 1.0
"""Between two looks at who is silent or away."""
_CANCEL_SECONDS = 10.0
"""For which a node may say what became of what was cancelled."""
_ATTEMPTS, _PAUSE_SECONDS = 3, 5.0
"""How often a node tries an image, and how long after the first failure; twice as long after the next."""


class TaskState(StrEnum):
    """Where one image on one node stands."""

    WAITING = "waiting"
    ASKED = "asked"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobState(StrEnum):
    """Where a job stands. It has failed when any of its tasks has."""

    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


_UNDERWAY = frozenset({TaskState.ASKED, TaskState.RUNNING})
_ENDED = frozenset({TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED})
_GOING = frozenset({PreheatState.WAITING, PreheatState.RUNNING})
"""What a node says of an image that it has not come to an end with."""


class Task(msgspec.Struct, omit_defaults=True):
    """One image on one node, and what the node has said of it."""

    state: TaskState = TaskState.WAITING
    arrived: int = 0
    """Bytes that are there, of `size`."""
    size: int = 0
    blobs: int = 0
    referrers: int = 0
    digest: str = ""
    error: str = ""
    attempts: int = 0
    due_at: float = 0.0
    heard_at: float = 0.0

    @property
    def is_over(self) -> bool:
        return self.state in _ENDED


class NodeRun(msgspec.Struct):
    """All that one node is to do."""

    peer: str
    name: str
    tasks: dict[str, Task]
    is_here: bool = True
    away_since: float = 0.0
    version: int = 0
    """The job's version when something of it changed last."""
    asked: str = ""
    """The image that the node was asked for last: no other one is underway."""
    ended: int = 0
    """So many of the first tasks are over, as far as was looked. They stay so."""

    @property
    def is_over(self) -> bool:
        return all(task.is_over for task in reversed(self.tasks.values()))

    def next_due(self, images: Sequence[str], now: float) -> str | None:
        """The image to be asked for next, where none is underway. `images`: those of the order, as the tasks stand."""
        if self.asked and self.tasks[self.asked].state in _UNDERWAY:
            return None
        while self.ended < len(images) and self.tasks[images[self.ended]].is_over:
            self.ended += 1
        for place in range(self.ended, len(images)):
            task = self.tasks[images[place]]
            if task.state is TaskState.WAITING and task.due_at <= now:
                return images[place]
        return None


class JobRecord(msgspec.Struct):
    """A job as it is written down."""

    id: str
    order: PreheatOrder
    by: str
    """Who has ordered it: the name of a token, a schedule or a webhook."""
    created_at: float
    nodes: list[NodeRun]
    pin_owner: str = ""
    """What stands before the references in the names of its pins, where it is not the operator who pins."""
    cancelled_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class Tell:
    """A command: a message to a node."""

    peer: PeerId
    message: protocol.Preheat | protocol.CancelPreheat


class Job:
    """A preheat. Call events as they happen, and `decide` some times a second; it gives what nodes are to be told."""

    def __init__(self, record: JobRecord) -> None:
        self.record = record
        self.version = 1
        """Grows with each change."""
        self.selection = Selection.parse(record.order.nodes)
        self._runs = {PeerId(run.peer): run for run in record.nodes}
        self._open = {run.peer: run for run in record.nodes if not run.is_over}
        """Nodes that have not come to their end."""
        self._running: dict[str, NodeRun] = {}
        """Those of them whose turn it is."""
        self._looked_at = 0.0
        self._decided = 0
        """The version at the last decision."""

    @classmethod
    def begin(
        cls, job_id: str, order: PreheatOrder, nodes: Iterable[Node], by: str, now: float, pin_owner: str = ""
    ) -> Job:
        """A new job on these nodes."""
        job = cls(JobRecord(job_id, order, by, now, [], pin_owner))
        for node in nodes:
            job._add(node)
        return job

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def is_over(self) -> bool:
        return self.record.ended_at is not None

    @property
    def state(self) -> JobState:
        record = self.record
        if record.ended_at is None:
            return JobState.RUNNING if record.cancelled_at is None else JobState.CANCELLING
        if record.cancelled_at is not None:
            return JobState.CANCELLED
        failed = any(task.state is TaskState.FAILED for _, _, task in self.tasks())
        return JobState.FAILED if failed else JobState.DONE

    def tasks(self) -> Iterator[tuple[NodeRun, str, Task]]:
        """All tasks, with their nodes and images."""
        for run in self.record.nodes:
            for image, task in run.tasks.items():
                yield run, image, task

    def count(self) -> dict[TaskState, int]:
        """How many tasks there are in each state."""
        counts = dict.fromkeys(TaskState, 0)
        for _, _, task in self.tasks():
            counts[task.state] += 1
        return counts

    # --- what happens -----------------------------------------------------------------------------------------------

    def joined(self, node: Node, now: float) -> None:
        """A node is here. One of the same name that has gone is this one, whose daemon was started anew."""
        if self.is_over:
            return
        run = self._runs.get(node.peer)
        if run is None:
            gone = [each for each in self.record.nodes if not each.is_here and each.name == node.name]
            run = gone[0] if gone else None
            if run is not None:
                del self._runs[PeerId(run.peer)]
                if self._open.pop(run.peer, None) is not None:
                    self._open[node.peer] = run
                run.peer = node.peer
                self._runs[node.peer] = run
        if run is None:
            if self.selection.is_open and self.selection.takes(node) and self.record.cancelled_at is None:
                self._add(node)
            return
        run.is_here = True
        for task in run.tasks.values():
            if task.state in _UNDERWAY:  # it may not know any more what it was asked for
                task.state = TaskState.WAITING
        self._touch(run)

    def left(self, peer: PeerId, now: float) -> None:
        """A node has gone."""
        run = self._runs.get(peer)
        if run is not None and run.is_here and not self.is_over:
            run.is_here, run.away_since = False, now
            self._running.pop(peer, None)
            self._touch(run)

    def heard(self, peer: PeerId, progress: protocol.PreheatProgress, now: float) -> list[Tell]:
        """A node tells how it goes with an image; returns what the node is told then: the next image, or that it is to
        stop what was cancelled while it was away."""
        run = self._runs.get(peer)
        task = run.tasks.get(progress.image) if run is not None else None
        if run is None or task is None:
            return []
        if task.state is TaskState.CANCELLED and progress.state in _GOING:
            return [Tell(peer, protocol.CancelPreheat(self.id, progress.image))]
        if task.state not in _UNDERWAY:
            return []
        task.heard_at, task.blobs, task.referrers = now, progress.blobs, progress.referrers
        task.size, task.arrived = progress.size, min(progress.arrived, progress.size)
        match progress.state:
            case PreheatState.DONE:
                task.state, task.digest, task.error = TaskState.DONE, progress.digest, ""
            case PreheatState.FAILED:
                self._failed(task, progress.error, now, again=progress.again)
            case PreheatState.CANCELLED:
                self._stopped(task, now)
            case _:
                task.state = TaskState.RUNNING
        self._touch(run)
        told: list[Tell] = []
        if task.state not in _UNDERWAY and peer in self._running and self.record.cancelled_at is None:
            self._ask(run, told, now)
        return told

    def cancel(self, now: float) -> list[Tell]:
        """Nothing more is to begin, and what runs is to stop."""
        if self.is_over or self.record.cancelled_at is not None:
            return []
        self.record.cancelled_at = now
        told = []
        for run, image, task in self.tasks():
            if task.state in _UNDERWAY and run.is_here:
                told.append(Tell(PeerId(run.peer), protocol.CancelPreheat(self.id, image)))
            elif not task.is_over:
                task.state = TaskState.CANCELLED
                self._touch(run)
        return told

    def decide(self, now: float) -> list[Tell]:
        """What nodes are to be told now."""
        if self.is_over:
            return []
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            for run in self._open.values():
                self._look_after(run, now)
        told: list[Tell] = []
        if self.record.cancelled_at is None:
            for run in list(self._running.values()):
                self._ask(run, told, now)
            for run in self._open.values():
                if len(self._running) >= self.record.order.concurrency:
                    break
                if run.is_here and run.peer not in self._running:
                    self._running[run.peer] = run
                    self._ask(run, told, now)
        for run in [run for run in self._open.values() if run.version > self._decided and run.is_over]:
            del self._open[run.peer]
            self._running.pop(run.peer, None)
        self._decided = self.version
        if not self._open:
            self.record.ended_at = now
            self.version += 1
        return told

    # --- what follows -----------------------------------------------------------------------------------------------

    def _add(self, node: Node) -> None:
        run = NodeRun(node.peer, node.name, {image: Task() for image in self.record.order.images})
        if not node.preheats:
            for task in run.tasks.values():
                task.state, task.error = TaskState.FAILED, f"version {node.software or 'unknown'} does not preheat"
        self.record.nodes.append(run)
        self._runs[node.peer] = self._open[node.peer] = run
        self._touch(run)

    def _ask(self, run: NodeRun, told: list[Tell], now: float) -> None:
        order = self.record.order
        image = run.next_due(order.images, now)
        if image is None:
            return
        run.asked, task = image, run.tasks[image]
        task.state, task.heard_at = TaskState.ASKED, now
        pin = f"{self.record.pin_owner} {image}".strip() if order.pin else ""
        message = protocol.Preheat(self.id, image, order.platforms, pin, order.rate, order.referrers)
        told.append(Tell(PeerId(run.peer), message))
        self._touch(run)

    def _look_after(self, run: NodeRun, now: float) -> None:
        """Give up what nobody speaks of any more."""
        is_cancelled = self.record.cancelled_at is not None and now - self.record.cancelled_at > _CANCEL_SECONDS
        is_lost = not run.is_here and now - run.away_since > _AWAY_SECONDS
        for task in run.tasks.values():
            if task.is_over:
                continue
            if is_cancelled:
                task.state, task.error = TaskState.CANCELLED, "the node did not say what became of it"
            elif is_lost:
                task.state = TaskState.FAILED
                task.error = f"the node has gone, and did not return within {_AWAY_SECONDS:g} s"
            elif run.is_here and task.state in _UNDERWAY and now - task.heard_at > _SILENT_SECONDS:
                self._failed(task, f"the node said nothing for {_SILENT_SECONDS:g} s", now, again=True)
            else:
                continue
            self._touch(run)

    def _failed(self, task: Task, error: str, now: float, *, again: bool) -> None:
        task.attempts += 1
        task.error = error
        if self.record.cancelled_at is not None:
            task.state = TaskState.CANCELLED
        elif again and task.attempts < _ATTEMPTS:
            task.state, task.due_at = TaskState.WAITING, now + _PAUSE_SECONDS * 2 ** (task.attempts - 1)
        else:
            task.state = TaskState.FAILED

    def _stopped(self, task: Task, now: float) -> None:
        """A node has stopped: because it was told to, or because its daemon ends."""
        if self.record.cancelled_at is not None:
            task.state = TaskState.CANCELLED
        else:
            self._failed(task, "the node's daemon has stopped it", now, again=True)

    def _touch(self, run: NodeRun) -> None:
        self.version += 1
        run.version = self.version
