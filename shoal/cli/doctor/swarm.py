"""Use: whether runtimes ask the mirror at all, and whether what they pull comes from the swarm."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import aiohttp

from proxy.checkup import Asker, Checkup
from proxy.upstream import MANIFEST_ACCEPT
from shoal.cli.doctor.daemon import AGENT
from shoal.cli.doctor.node import NodeAnswer, PullState
from shoal.cli.doctor.runtimestates import RuntimeState
from shoal.cli.doctor.subject import Subject
from shoal.cli.finding import Finding
from shoal.cli.runtimes.catalog import RUNTIMES
from shoal.cli.runtimes.host import FileUnusable, Host
from shoal.cli.runtimes.mirror import mirror_of
from shoal.reference import InvalidReference, Reference
from shoal.units import format_age, format_size

_AGENTS = {
    "docker": ("docker/",),
    "containerd": ("containerd/",),
    "k3s": ("containerd/", "k3s/"),
    "rke2": ("containerd/", "rke2/"),
    "podman": ("containers/", "libpod/", "buildah/"),
    "crio": ("cri-o/", "containers/"),
    "buildkit": ("buildkit/", "containerd/"),
}
"""How runtimes begin their `User-Agent`."""

_PULLS = {
    "docker": PurePosixPath("/var/lib/docker/image/overlay2/distribution/diffid-by-digest/sha256"),
    "containerd": PurePosixPath("/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256"),
    "k3s": PurePosixPath("/var/lib/rancher/k3s/agent/containerd/io.containerd.content.v1.content/blobs/sha256"),
    "rke2": PurePosixPath("/var/lib/rancher/rke2/agent/containerd/io.containerd.content.v1.content/blobs/sha256"),
}
"""Where a runtime makes a file for each blob that it pulls."""

_MAX_FILES = 50_000
_PATIENCE_SECONDS = 600.0
"""How long a mirror may be up before it is odd that nobody has asked it."""
_MUCH_BYTES = 64 << 20
_IMAGE_TIMEOUT = aiohttp.ClientTimeout(total=6.5, sock_connect=2.0)


@dataclass(frozen=True, slots=True)
class Use:
    """A runtime that is configured, and how many seconds ago it pulled a blob last; None where that is not known."""

    runtime: str
    pulled: float | None


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """What the mirror answers to a request for an image's manifest; `fault` is empty where it gives one."""

    image: str
    digest: str = ""
    warning: str = ""
    """What it warns of, as that the origin is silent."""
    fault: str = ""


def judge_use(uses: list[Use], node: NodeAnswer) -> list[Finding]:
    """Whether the mirror is asked, and by whom."""
    checkup = node.checkup
    if checkup is None:
        text = "Whether pulls go through the mirror could not be seen, since the daemon does not tell."
        return [Finding("use-unseen", "warning", text, "Start the daemon and run `shoal doctor` again.")]
    found = [finding for use in uses for finding in _judge_runtime(use, checkup)]
    return found + _judge_sources(checkup) + _judge_last(node.pulls)


def _judge_runtime(use: Use, checkup: Checkup) -> list[Finding]:
    name, uptime = use.runtime, format_age(checkup.uptime)
    askers = [asker for asker in checkup.askers if asker.program.startswith(_AGENTS.get(name, ()))]
    if askers:
        last = min(askers, key=lambda asker: asker.seconds)
        text = f"{last.program} asked the mirror {format_age(last.seconds)} ago, {_requests(askers)} in all."
        return [Finding("mirror-asked", "ok", text)]
    others = [asker.program for asker in checkup.askers if asker.program and not asker.program.startswith(AGENT)]
    besides = f" ({', '.join(others)} did)" if others else ""
    if use.pulled is not None and use.pulled < checkup.uptime:
        text = (
            f"{name} is configured and pulls past the mirror: it pulled {format_age(use.pulled)} ago, and has asked "
            f"nothing of the mirror in the {uptime} that the daemon is up{besides}."
        )
        remedy = (
            f"It may not have read its configuration: {_again(name)} Run `shoal config {name} --check`, and see that "
            "images are pulled by names that the mirror stands for."
        )
        return [Finding("mirror-never-asked", "error", text, remedy)]
    if checkup.uptime < _PATIENCE_SECONDS:
        return [Finding("mirror-not-yet-asked", "ok", f"{name} has asked nothing of the mirror in {uptime}{besides}.")]
    text = f"{name} is configured and has asked nothing of the mirror in the {uptime} that the daemon is up{besides}."
    remedy = (
        f"Pull an image with {name} and run `shoal doctor` again. Where it still asks nothing: {_again(name)} Then run "
        f"`shoal config {name} --check`."
    )
    return [Finding("mirror-never-asked", "warning", text, remedy)]


def _again(runtime: str) -> str:
    """What makes a runtime read its files again, in whole sentences."""
    return " ".join(RUNTIMES[runtime].then)


def _requests(askers: list[Asker]) -> str:
    count = sum(asker.requests for asker in askers)
    return f"{count} time{'' if count == 1 else 's'}"


def _judge_sources(checkup: Checkup) -> list[Finding]:
    """Where what was pulled has come from."""
    peers, origins = checkup.received.get("peer", 0), checkup.received.get("origin", 0)
    if not peers + origins:
        return [Finding("swarm-idle", "ok", "Nothing has been pulled through this node since the daemon started.")]
    text = (
        f"Since the daemon started {format_size(peers)} came from other nodes and {format_size(origins)} from origins."
    )
    others = checkup.neighbours or (checkup.probe.elsewhere if checkup.probe else 0)
    if others and not peers and origins > _MUCH_BYTES:
        remedy = (
            "Where other nodes have pulled the same images, do what is said of the supernode and the neighbours; where "
            "this node was the first to pull them, all is well."
        )
        return [Finding("swarm-unused", "warning", text, remedy)]
    return [Finding("swarm-used", "ok", text)]


def _judge_last(pulls: Sequence[PullState]) -> list[Finding]:
    """The last pull of a client other than this command."""
    last = next((pull for pull in pulls if not pull.agent.startswith(AGENT)), None)
    if last is None:
        return []
    text = f"The last pull was of {last.image}. {last.verdict}"
    if last.failed:
        remedy = f"Run `shoal explain {last.image}`, which says of each request what became of it."
        return [Finding("last-pull-failed", "warning", text, remedy)]
    return [Finding("last-pull", "ok", text)]


def judge_image(answer: ImageAnswer) -> list[Finding]:
    """Whether an image is to be had through the mirror."""
    if answer.fault:
        remedy = (
            "Do what is said of the daemon and the origins; a registry that is not named in `proxy.upstreams` is "
            "refused, and a private image needs a login (`docker login`) or `share_credentials`."
        )
        text = f"{answer.image} is not to be had through the mirror: {answer.fault}."
        return [Finding("image-refused", "error", text, remedy)]
    text = f"The mirror gives {answer.image} as {answer.digest}."
    if answer.warning:
        remedy = "Do what is said of its origin: the tag may mean another image there by now."
        return [Finding("image-stale", "warning", f"{text} It warns: {answer.warning}.", remedy)]
    return [Finding("image-given", "ok", text)]


async def examine(subject: Subject) -> list[Finding]:
    """The part of the report."""
    node, states, image = await asyncio.gather(subject.node(), subject.runtimes(), _ask_for_image(subject))
    uses = await asyncio.to_thread(_uses, subject.host, states)
    return judge_use(uses, node) + ([] if image is None else judge_image(image))


def _uses(host: Host, states: list[RuntimeState]) -> list[Use]:
    return [Use(state.name, _pulled(host, state.name)) for state in states if state.is_configured]


def _pulled(host: Host, runtime: str) -> float | None:
    """How many seconds ago a runtime has written a blob last."""
    if runtime not in _PULLS:
        return None
    try:
        with os.scandir(host.place(_PULLS[runtime])) as entries:
            times = [entry.stat().st_mtime for entry in itertools.islice(entries, _MAX_FILES)]
    except (OSError, FileUnusable):
        return None
    return max(0.0, time.time() - max(times)) if times else None


async def _ask_for_image(subject: Subject) -> ImageAnswer | None:
    image = subject.image
    if not image:
        return None
    try:
        reference = Reference.parse(image)
    except InvalidReference as error:
        return ImageAnswer(image, fault=str(error))
    url = f"{mirror_of(subject.configuration.proxy).url}/v2/{reference.repository}/manifests/{reference.target}"
    headers = {"User-Agent": AGENT, "Accept": MANIFEST_ACCEPT}
    try:
        async with (
            aiohttp.ClientSession(timeout=_IMAGE_TIMEOUT, headers=headers) as session,
            session.get(url, params={"ns": reference.registry}) as response,
        ):
            body = await response.content.read(500)
            if response.status != 200:
                return ImageAnswer(image, fault=f"status {response.status}, {body.decode(errors='replace')}")
            digest = response.headers.get("Docker-Content-Digest", "")
            return ImageAnswer(image, digest, response.headers.get("Warning", ""))
    except TimeoutError:
        return ImageAnswer(image, fault="no answer in time")
    except (aiohttp.ClientError, OSError) as error:
        return ImageAnswer(image, fault=str(error))
