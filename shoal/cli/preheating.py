"""How a preheat goes, on a terminal and without one, and what is said of it at the end."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.progress import TaskID, TextColumn

from shoal.cli.progress import Barred, bars
from shoal.units import format_size

_MAX_BARS = 20
"""Nodes that have a bar each; of more there is one for all."""
_ALL = -1
"""In place of a node's number."""
_MAX_FAILURES = 50
_ENDS = ("done", "failed", "cancelled")

News = dict[str, Any]
"""A preheat as the API shows it, with the nodes that have changed (`runs`)."""


class Watcher(Barred):
    """Shows news, as a context manager: bars on a terminal, else a line for each image that has come to its end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        super().__init__(bars(console, TextColumn("{task.fields[state]}")))
        self._tasks: dict[int, TaskID] = {}
        self._ended: set[tuple[int, str]] = set()
        self._runs: dict[int, News] = {}
        """All nodes by their numbers, as they were told last."""
        self._is_lost = False

    def lost(self) -> None:
        """The supernode tells nothing more for now."""
        if not self._is_lost:
            self._is_lost = True
            self._console.print("The supernode tells nothing more: it is asked again, and nodes go on meanwhile.")

    def show(self, news: News) -> None:
        """Something has changed."""
        self._is_lost = False
        for run in news["runs"]:
            self._runs[run["number"]] = run
            for image in run["images"]:
                self._end(run, image)
        if len(self._runs) <= _MAX_BARS:
            for run in news["runs"]:
                self._bar(run["number"], run["node"], run["images"], _gone(run))
        else:
            for key in self._tasks.keys() - {_ALL}:
                self._bars.remove_task(self._tasks.pop(key))
            images = [image for run in self._runs.values() for image in run["images"]]
            self._bar(_ALL, f"{len(self._runs)} nodes", images)

    def whole(self, news: News) -> News:
        """The preheat with all its nodes."""
        return {**news, "runs": sorted(self._runs.values(), key=lambda run: str(run["node"]))}

    def _bar(self, key: int, name: str, images: list[News], gone: str = "") -> None:
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(_plain(name)[:40], total=None, state="")
        size = sum(image["size"] for image in images)
        arrived = sum(image["arrived"] for image in images)
        state = _counted(images) + gone
        self._bars.update(self._tasks[key], total=size or None, completed=arrived, state=state)

    def _end(self, run: News, image: News) -> None:
        if image["state"] in _ENDS and (run["number"], image["image"]) not in self._ended:
            self._ended.add((run["number"], image["image"]))
            if not self._console.is_terminal:
                self._console.print(
                    line(run["node"], image), markup=False, emoji=False, highlight=False, soft_wrap=True
                )


def line(node: str, image: News) -> str:
    """One image on one node, in one line."""
    text = f"{_plain(node)}: {image['image']}: {image['state']}"
    if image["state"] == "done":
        about = f" and {image['referrers']} referrers" if image["referrers"] else ""
        return f"{text}, {image['digest']}, {image['blobs']} blobs{about}, {format_size(image['size'])}"
    return f"{text}: {_plain(image['error'])}" if image["error"] else text


def outcome(job: News) -> str:
    """What is said at the end: how many there are of each kind, and each one that is not there."""
    tasks = [(run["node"] + _gone(run), image) for run in job["runs"] for image in run["images"]]
    counts = Counter(str(image["state"]) for _, image in tasks)
    lines = [line(node, image) for node, image in tasks if image["state"] != "done"]
    more = len(lines) - _MAX_FAILURES
    if more > 0:
        lines = [*lines[:_MAX_FAILURES], f"and {more} more (`shoal preheats {job['id']}` shows all)"]
    words = ", ".join(f"{counts[state]} {state}" for state in counts if state != "done")
    there = f"{counts['done']} of {len(tasks)} images on {len(job['runs'])} nodes are there, verified"
    return "\n".join([f"preheat {job['id']} {job['state']}: {there}{f'; {words}' if words else ''}", *lines])


def _gone(run: News) -> str:
    """What is said of a node that has gone and was to do more."""
    return "" if run["here"] or all(image["state"] in _ENDS for image in run["images"]) else " (gone)"


def _plain(text: str) -> str:
    """What a node says, without what a terminal would act upon."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _counted(images: list[News]) -> str:
    counts = Counter(str(image["state"]) for image in images)
    if len(images) == 1:
        return next(iter(counts))
    return f"{counts['done']} of {len(images)} images" + (f", {counts['failed']} failed" if counts["failed"] else "")
