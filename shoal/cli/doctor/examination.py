"""All parts of the way at the same time, each for as long as there is time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from shoal.cli.configuration import Configuration
from shoal.cli.doctor import (
    clocks,
    daemon,
    descriptors,
    disk,
    membership,
    neighbours,
    origins,
    runtimes,
    supernode,
    swarm,
)
from shoal.cli.doctor.executor import Unwaited
from shoal.cli.doctor.node import ask_node
from shoal.cli.doctor.runtimestates import states_of
from shoal.cli.doctor.subject import Subject
from shoal.cli.finding import Finding
from shoal.cli.runtimes.host import Host
from shoal.cli.runtimes.mirror import mirror_of

log = structlog.get_logger()

_SECONDS = 7.0
"""For all of it: what is silent is waited for no longer."""

Examine = Callable[[Subject], Awaitable[list[Finding]]]

PARTS: Mapping[str, Examine] = {
    "Configuration": membership.examine,
    "Daemon": daemon.examine,
    "Container runtimes": runtimes.examine,
    "Supernode": supernode.examine,
    "Other nodes": neighbours.examine,
    "Origins and credentials": origins.examine,
    "Clock": clocks.examine,
    "Disk": disk.examine,
    "File descriptors": descriptors.examine,
    "Use": swarm.examine,
}


@dataclass(frozen=True, slots=True)
class Part:
    """What was found of one part of the way."""

    name: str
    findings: tuple[Finding, ...]


def examine(configuration: Configuration, file: Path | None, host: Host, image: str) -> list[Part]:
    """Look at everything; takes 7 s at most. `file`: where the configuration stands, besides variables and flags.

    `image` is to be resolved through the mirror; empty for none.
    """
    with asyncio.Runner() as runner:
        return runner.run(_examine(configuration, file, host, image))


def unusable(error: str) -> list[Part]:
    """What there is to say where the configuration cannot be used."""
    remedy = "Put right what is named; `shoal peer --print-config` shows the configuration as it would be used."
    found = Finding("configuration-unusable", "error", f"The configuration cannot be used: {error}.", remedy)
    return [Part("Configuration", (found,))]


async def _examine(configuration: Configuration, file: Path | None, host: Host, image: str) -> list[Part]:
    asyncio.get_running_loop().set_default_executor(Unwaited())
    asking = asyncio.create_task(ask_node(configuration.peer))
    checking = asyncio.create_task(asyncio.to_thread(states_of, host, mirror_of(configuration.proxy)))
    subject = Subject(configuration, file, host, image, asking, checking)
    tasks = {name: asyncio.ensure_future(look(subject)) for name, look in PARTS.items()}
    done, _ = await asyncio.wait(tasks.values(), timeout=_SECONDS)
    parts = [Part(name, _outcome(name, task) if task in done else (_unfinished(name),)) for name, task in tasks.items()]
    for task in (asking, checking, *tasks.values()):
        task.cancel()
    await asyncio.gather(asking, checking, *tasks.values(), return_exceptions=True)
    return parts


def _outcome(name: str, task: asyncio.Future[list[Finding]]) -> tuple[Finding, ...]:
    """What a part has found. A fault of ours in one part must not hide what the others have found."""
    error = task.exception()
    if error is None:
        return tuple(task.result())
    log.error("doctor.part_failed", part=name, exc_info=error)
    text = f"{name} could not be looked at, by a fault of Shoal itself: {type(error).__name__}: {error}."
    remedy = "Tell its developers, with the lines that `shoal doctor` prints to standard error."
    return (Finding("part-failed", "warning", text, remedy),)


def _unfinished(name: str) -> Finding:
    text = f"{name} could not be looked at within {_SECONDS:g} s: something there does not answer."
    remedy = "Look at what else is wrong, and at disks and name servers that do not answer; then run it again."
    return Finding("part-unfinished", "warning", text, remedy)
