"""Jobs as they are shown: in the API, and so by the command line and the page. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from supernode.preheating.jobs import Job, NodeRun, TaskState

View = dict[str, object]


def summary(job: Job) -> View:
    """A job in a few words."""
    record, order = job.record, job.record.order
    counts = dict.fromkeys(map(str, TaskState), 0)
    arrived = size = 0
    for run in record.nodes:
        for task in run.tasks.values():
            counts[task.state] += 1
            arrived += task.arrived
            size += task.size
    return {
        "id": job.id,
        "by": record.by,
        "state": str(job.state),
        "created": at(record.created_at),
        "ended": at(record.ended_at),
        "images": order.images,
        "nodes": order.nodes,
        "platforms": order.platforms,
        "pin": order.pin,
        "rate": order.rate,
        "concurrency": order.concurrency,
        "referrers": order.referrers,
        "tasks": counts,
        "bytes": {"arrived": arrived, "size": size},
    }


def runs(job: Job, since: int) -> Iterator[View]:
    """The nodes of which something has changed after a version, each made when it is asked for."""
    for number, run in enumerate(job.record.nodes):
        if run.version > since or not since:
            yield one_run(number, run)


def one_run(number: int, run: NodeRun) -> View:
    """One node of a job, by its place among the nodes."""
    return {
        "number": number,
        "node": run.name,
        "peer": run.peer,
        "here": run.is_here,
        "images": [
            {
                "image": image,
                "state": str(task.state),
                "arrived": task.arrived,
                "size": task.size,
                "blobs": task.blobs,
                "referrers": task.referrers,
                "digest": task.digest,
                "error": task.error,
                "attempts": task.attempts,
            }
            for image, task in run.tasks.items()
        ],
    }


def at(seconds: float | None) -> str | None:
    """A time as it is written in JSON."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
