"""Jobs: which nodes are asked for what, and what is told of them."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from supernode import protocol
from supernode.handout import Contact
from supernode.preheating.jobs import Job, JobRecord, JobState, NodeRun, Task, TaskState, Tell
from supernode.preheating.order import PreheatOrder
from supernode.protocol import PeerId, PreheatState
from supernode.roster import Node

ONE, TWO = "docker.io/library/one:1", "docker.io/library/two:2"


def node(name: str, peer: str | None = None, *, preheats: bool = True) -> Node:
    contact = Contact("10.0.0.1", 5081, "")
    return Node(PeerId(peer or name), name, {}, "0.1", contact, 0.0, preheats)


def order(*images: str, **more: object) -> PreheatOrder:
    return msgspec.convert({"images": list(images or (ONE,)), **more}, PreheatOrder)


def job_of(*nodes: Node, images: tuple[str, ...] = (ONE,), **more: object) -> Job:
    return Job.begin("job", order(*images, **more), nodes, "test", 0.0)


def asked(told: list[Tell]) -> list[tuple[str, str]]:
    return [(each.peer, each.message.image) for each in told if isinstance(each.message, protocol.Preheat)]


def progress(image: str, state: str, **more: object) -> protocol.PreheatProgress:
    return protocol.PreheatProgress("job", image, state, **more)  # type: ignore[arg-type]


def task(job: Job, name: str, image: str = ONE) -> Task:
    return next(task for run, each, task in job.tasks() if run.name == name and each == image)


def test_each_node_is_asked_for_one_image_after_the_other() -> None:
    job = job_of(node("a"), node("b"), images=(ONE, TWO))
    assert asked(job.decide(0.0)) == [("a", ONE), ("b", ONE)]
    assert job.heard(PeerId("a"), progress(ONE, PreheatState.RUNNING), 0.5) == []
    assert asked(job.heard(PeerId("a"), progress(ONE, PreheatState.DONE, digest="sha256:x"), 1.0)) == [("a", TWO)]
    assert asked(job.decide(1.1)) == []


def test_no_more_nodes_preheat_at_a_time_than_are_to() -> None:
    job = job_of(node("a"), node("b"), node("c"), concurrency=2)
    assert asked(job.decide(0.0)) == [("a", ONE), ("b", ONE)]
    job.heard(PeerId("a"), progress(ONE, PreheatState.DONE), 1.0)
    told = asked(job.decide(1.0)) + asked(job.decide(1.3))
    assert told == [("c", ONE)]


def test_a_failure_that_may_pass_is_tried_again_and_others_are_not() -> None:
    job = job_of(node("a"), node("b"))
    job.decide(0.0)
    job.heard(PeerId("a"), progress(ONE, PreheatState.FAILED, error="a reset", again=True), 1.0)
    job.heard(PeerId("b"), progress(ONE, PreheatState.FAILED, error="refused"), 1.0)
    assert asked(job.decide(2.0)) == []
    assert asked(job.decide(6.1)) == [("a", ONE)]
    job.heard(PeerId("a"), progress(ONE, PreheatState.FAILED, error="a reset", again=True), 7.0)
    assert asked(job.decide(17.1)) == [("a", ONE)]
    job.heard(PeerId("a"), progress(ONE, PreheatState.FAILED, error="a reset", again=True), 18.0)
    job.decide(19.0)
    assert (job.state, task(job, "a").error, task(job, "b").error) == (JobState.FAILED, "a reset", "refused")


def test_a_node_that_returns_is_asked_again_and_one_that_does_not_has_failed() -> None:
    job = job_of(node("a"), node("b"))
    job.decide(0.0)
    job.left(PeerId("a"), 1.0)
    job.left(PeerId("b"), 1.0)
    job.joined(node("a"), 5.0)
    assert asked(job.decide(5.1)) == [("a", ONE)]
    job.heard(PeerId("a"), progress(ONE, PreheatState.DONE), 6.0)
    job.decide(122.0)
    assert (task(job, "a").state, task(job, "b").state) == (TaskState.DONE, TaskState.FAILED)
    assert "has gone" in task(job, "b").error
    assert job.state is JobState.FAILED


def test_a_node_that_was_started_anew_takes_its_place_by_its_name() -> None:
    job = job_of(node("a", "peer-1"))
    job.decide(0.0)
    job.left(PeerId("peer-1"), 1.0)
    job.joined(node("a", "peer-2"), 2.0)
    assert asked(job.decide(2.1)) == [("peer-2", ONE)]
    job.heard(PeerId("peer-1"), progress(ONE, PreheatState.DONE), 3.0)
    assert task(job, "a").state is TaskState.ASKED
    assert len(job.record.nodes) == 1


def test_nodes_that_come_later_are_meant_too_unless_some_were_drawn() -> None:
    job, drawn = job_of(node("a")), job_of(node("a"), nodes="1")
    for each in (job, drawn):
        each.decide(0.0)
        each.joined(node("b"), 1.0)
    assert asked(job.decide(1.1)) == [("b", ONE)]
    assert asked(drawn.decide(1.1)) == []


def test_a_node_that_does_not_know_how_is_named() -> None:
    job = job_of(node("a", preheats=False))
    assert job.decide(0.0) == []
    assert (job.state, task(job, "a").error) == (JobState.FAILED, "version 0.1 does not preheat")


def test_a_silent_node_has_failed() -> None:
    job = job_of(node("a"))
    for attempt in range(3):
        job.decide(attempt * 100.0)
        job.decide(attempt * 100.0 + 61)
    assert (task(job, "a").state, "said nothing" in task(job, "a").error) == (TaskState.FAILED, True)


def test_what_is_complete_when_a_job_is_cancelled_stays_so() -> None:
    job = job_of(node("a"), node("b"), node("c"), images=(ONE, TWO), concurrency=2)
    job.decide(0.0)
    job.heard(PeerId("a"), progress(ONE, PreheatState.DONE), 1.0)
    told = job.cancel(2.0)
    assert [each.message for each in told] == [protocol.CancelPreheat("job", TWO), protocol.CancelPreheat("job", ONE)]
    job.decide(2.1)
    assert job.state == "cancelling"
    job.heard(PeerId("a"), progress(TWO, PreheatState.CANCELLED), 2.4)
    job.heard(PeerId("b"), progress(ONE, PreheatState.DONE), 2.5)
    assert job.decide(2.6) == []
    assert job.state is JobState.CANCELLED
    assert job.count() == {**dict.fromkeys(TaskState, 0), TaskState.DONE: 2, TaskState.CANCELLED: 4}


def test_a_node_that_says_nothing_of_what_was_cancelled_is_not_waited_for() -> None:
    job = job_of(node("a"))
    job.decide(0.0)
    job.cancel(1.0)
    job.decide(12.0)
    assert (job.state, task(job, "a").state) == (JobState.CANCELLED, TaskState.CANCELLED)


def test_a_node_that_was_away_when_its_job_was_cancelled_is_told_when_it_goes_on() -> None:
    job = job_of(node("a"))
    job.decide(0.0)
    job.left(PeerId("a"), 1.0)
    assert job.cancel(2.0) == []
    job.decide(2.1)
    assert job.state is JobState.CANCELLED
    job.joined(node("a"), 3.0)
    stop = [Tell(PeerId("a"), protocol.CancelPreheat("job", ONE))]
    assert job.heard(PeerId("a"), progress(ONE, PreheatState.RUNNING), 4.0) == stop
    assert job.heard(PeerId("a"), progress(ONE, PreheatState.CANCELLED), 4.1) == []


def test_a_job_that_was_written_down_goes_on() -> None:
    job = job_of(node("a"), node("b"))
    job.decide(0.0)
    job.heard(PeerId("a"), progress(ONE, PreheatState.DONE, digest="sha256:x"), 1.0)
    record = msgspec.json.decode(msgspec.json.encode(job.record), type=JobRecord)
    for run in record.nodes:
        run.is_here, run.away_since = False, 2.0
    again = Job(record)
    assert again.decide(2.0) == []
    again.joined(node("b", "another-peer"), 3.0)
    assert asked(again.decide(3.0)) == [("another-peer", ONE)]
    again.heard(PeerId("another-peer"), progress(ONE, PreheatState.DONE), 4.0)
    again.decide(4.0)
    assert again.state is JobState.DONE


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["decide", "join", "leave", "done", "failed", "again", "running", "cancelled", "cancel"]),
        st.integers(0, 3),
        st.sampled_from([ONE, TWO]),
        st.floats(0, 40),
    ),
    max_size=60,
)


@given(_STEPS, st.integers(1, 4))
def test_every_job_ends_and_never_asks_more_than_it_may(
    steps: list[tuple[str, int, str, float]], concurrency: int
) -> None:
    nodes = [node(name) for name in "abcd"]
    job = job_of(*nodes[:3], images=(ONE, TWO), concurrency=concurrency)
    now = 0.0
    for step, which, image, seconds in steps:
        now += seconds
        peer = nodes[which].peer
        match step:
            case "decide":
                job.decide(now)
            case "join":
                job.joined(nodes[which], now)
            case "leave":
                job.left(peer, now)
            case "cancel":
                job.cancel(now)
            case "again":
                job.heard(peer, progress(image, PreheatState.FAILED, again=True), now)
            case _:
                job.heard(peer, progress(image, step), now)
        busy = [run for run in job.record.nodes if run.is_here and _is_busy(run)]
        assert len(busy) <= concurrency or job.is_over
    for _ in range(30):
        now += 70
        job.decide(now)
    assert job.is_over or any(not run.is_over and run.is_here for run in job.record.nodes)
    for _ in range(200):
        now += 70
        job.decide(now)
    assert job.is_over
    assert all(each.is_over for _, _, each in job.tasks())


def _is_busy(run: NodeRun) -> bool:
    return any(each.state in {TaskState.ASKED, TaskState.RUNNING} for each in run.tasks.values())
