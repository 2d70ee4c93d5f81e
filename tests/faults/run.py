"""One run of a fault: what a scenario may do and say, and how every run is judged."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from bench.processes import DidNotStart
from tests.faults.clients import Image, Outcome, Pull, Span
from tests.faults.leftovers import Watch
from tests.faults.world import Member, World
from tests.world.nodes import Node

LONGEST_SILENCE = 5.0
"""Seconds for which a client may see no byte while a source lives."""
LONGEST_RECOVERY = 20.0
"""Seconds from the end of a fault until every client has the image."""
_PULL_SECONDS = 90.0
_POLL_SECONDS = 0.01
_RETRY_SECONDS = 0.3


@dataclass
class Result:
    """How a run went."""

    fault: str
    seed: int
    pulls: int = 0
    right_images: int = 0
    clean_errors: int = 0
    wrong_bytes: int = 0
    leftovers: int = 0
    silence: float = 0.0
    recovery: float = 0.0
    seconds: float = 0.0
    complaints: list[str] = field(default_factory=list)
    """What makes the run a failure."""
    notes: list[str] = field(default_factory=list)


class Run:
    """What a scenario sees. It starts pulls, does harm, and leaves the world good again; `judge` does the rest."""

    def __init__(self, world: World, fault: str, seed: int, pool: ThreadPoolExecutor) -> None:
        self.world = world
        self.rng = random.Random(f"{fault} {seed}")
        self.result = Result(fault, seed)
        self.image: Image
        """What is pulled: what was pushed last."""
        self.pulls: list[Pull] = []
        self.may_refuse = False
        """Whether an error is an answer, besides an image: no source may be good."""
        self.leaves_doubt = False
        """Whether good nodes may have given each other wrong pieces, for which they leave each other alone for 10 s and
        more: the next fault is driven among others."""
        self.clients = list(world.nodes)
        """Nodes from which the image is to be had when the fault is over."""
        self._pool = pool
        self._futures: list[Future[Pull]] = []
        self._excused: list[tuple[Node | None, Span]] = []
        self._harmed: set[int] = set()
        self._over_at: float | None = None

    # --- what scenarios do ----------------------------------------------------------------------------------------

    def push(self, *sizes: int) -> Image:
        """A new image at the origin, which is what is pulled from here on."""
        self.image = self.world.push(self.rng, *sizes)
        return self.image

    def pull(self, *nodes: Node) -> list[Pull]:
        """Clients begin to pull at these nodes, or at all."""
        pulls = [Pull(node, self.image) for node in nodes or self.world.nodes]
        self.pulls += pulls
        self._futures += [self._pool.submit(pull.run) for pull in pulls]
        return pulls

    def wait(self) -> None:
        """Until all pulls so far have ended."""
        for future in self._futures:
            future.result(_PULL_SECONDS)

    def wait_for_progress(self, share: float, *pulls: Pull) -> None:
        """Until clients have this share of what they want in all, or their pulls have ended."""
        watched = pulls or self.pulls
        wanted = share * sum(pull.image.size for pull in watched)
        self.wait_for(lambda: sum(each.received for each in watched) >= wanted or all(e.ended_at for e in watched))

    def wait_for(self, condition: Callable[[], object], seconds: float = 20.0) -> bool:
        """Until it holds, at most so long; returns whether it does."""
        deadline = time.monotonic() + seconds
        while not (holds := bool(condition())) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return holds

    def lasts(self, shortest: float, longest: float) -> None:
        """Let the fault last for a while, which is drawn."""
        time.sleep(self.rng.uniform(shortest, longest))

    def without_source(self, since: float, node: Node | None = None) -> None:
        """From `since` until now nothing could give this node's clients, or any, a byte: their silence is excused."""
        self._excused.append((node, (since, time.monotonic())))

    def harmed(self, member: Member) -> None:
        """The clients of this node may see their connections break."""
        self._harmed.add(self.world.members.index(member))

    def over(self) -> None:
        """The fault is over: recovery counts from here. Without this call it is when the scenario returns."""
        self._over_at = time.monotonic()

    def expect(self, holds: bool, what: str) -> None:
        """Something of this fault alone."""
        if not holds:
            self.result.complaints.append(what)

    def note(self, text: str) -> None:
        """A figure worth reading."""
        self.result.notes.append(text)

    # --- how it is judged -----------------------------------------------------------------------------------------

    def judge(self, watch: Watch) -> Result:
        """To be called when the scenario has returned."""
        result, over_at = self.result, self._over_at or time.monotonic()
        try:
            self.wait()
        except TimeoutError:
            result.complaints.append(f"a pull has not ended after {_PULL_SECONDS:g} s")
            return result
        for pull in self.pulls:
            self._judge_pull(pull)
        result.recovery = self._recover(over_at) if self.clients else 0.0
        if result.recovery > LONGEST_RECOVERY:
            result.complaints.append(f"not all have the image {LONGEST_RECOVERY:g} s after the fault")
        if result.silence > LONGEST_SILENCE:
            result.complaints.append(f"{result.silence:.1f} s of silence")
        try:
            left = watch.complaints()
        except DidNotStart as error:
            left = [str(error)]
        result.leftovers += len(left)
        result.complaints += left
        return result

    def _judge_pull(self, pull: Pull) -> None:
        result, place = self.result, self.world.nodes.index(pull.node)
        result.pulls += 1
        outcome = pull.outcome
        result.right_images += outcome is Outcome.RIGHT
        result.clean_errors += outcome is Outcome.ERROR
        result.wrong_bytes += outcome is Outcome.WRONG
        if outcome in (Outcome.WRONG, Outcome.UNCLEAR):
            result.complaints.append(f"node {place}: {outcome.value}: {pull.complaints}")
        elif outcome is Outcome.ERROR:
            if not (self.may_refuse or pull.may_refuse) and place not in self._harmed:
                result.complaints.append(f"node {place}: {pull.complaints}")
            else:
                result.notes.append(f"node {place}: {pull.complaints[0]}")
        silence = pull.silence([span for node, span in self._excused if node in (None, pull.node)])
        result.silence = max(result.silence, silence)

    def _recover(self, over_at: float) -> float:
        """Seconds from the end of the fault until each client has got the image, where it had to try again too."""
        return max(self._pool.map(lambda node: self._recover_at(node, over_at), self.clients))

    def _recover_at(self, node: Node, over_at: float) -> float:
        mine = [pull for pull in self.pulls if pull.node is node and pull.image is self.image]
        right = [pull.ended_at for pull in mine if pull.outcome is Outcome.RIGHT and pull.ended_at]
        while not right:
            again = Pull(node, self.image).run()
            if again.outcome is Outcome.RIGHT:
                assert again.ended_at is not None
                right = [again.ended_at]
            elif time.monotonic() > over_at + LONGEST_RECOVERY:
                self.result.complaints.append(f"node {self.world.nodes.index(node)}, again: {again.complaints}")
                return time.monotonic() - over_at
            time.sleep(_RETRY_SECONDS)
        return max(0.0, min(right) - over_at)
