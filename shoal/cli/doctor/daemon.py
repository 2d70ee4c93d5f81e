"""The daemon: whether it runs, as the configuration says, and whether clients reach its mirror."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from proxy.checkup import Particulars
from shoal.cli.configuration import Configuration
from shoal.cli.doctor.listeners import Listener, listener_at, overlap
from shoal.cli.doctor.node import NodeAnswer
from shoal.cli.doctor.subject import Subject
from shoal.cli.finding import Finding
from shoal.cli.runtimes.mirror import mirror_of
from shoal.fields import authority
from shoal.operator import OperatorToken, TokenUnusable
from shoal.units import format_age
from shoal.version import VERSION

_PROXY_TIMEOUT = aiohttp.ClientTimeout(total=5.5, sock_connect=2.0)
"""A mirror answers any question within 5 s."""
_API = "Docker-Distribution-Api-Version"
_ANY_PORT = ":0"
_SLACK_SECONDS = 2.0
"""Between the moment that a file is written and that a daemon has read it and begun."""
AGENT = "shoal-doctor"
"""The `User-Agent` of this command, which is no client's."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port that the configuration gives to the daemon, and who listens there."""

    key: str
    host: str
    number: int
    listener: Listener | None

    def excludes(self, other: Port) -> bool:
        """Whether one daemon cannot have both."""
        is_same = self.number == other.number != 0 and overlap(self.host, other.host)
        return is_same and self.key != other.key


@dataclass(frozen=True, slots=True)
class MirrorAnswer:
    """What the mirror answers to `HEAD /v2/`, asked as a runtime asks it; `fault` is empty where it is a registry."""

    url: str
    status: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the configuration says of the daemon, as its checkup does."""

    store: str
    proxy: str
    peer_port: str
    supernode: str


@dataclass(frozen=True, slots=True)
class File:
    """The configuration file, and how many seconds ago it was changed."""

    path: str
    changed: float


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """One daemon and its ports."""

    node: NodeAnswer
    wanted: Wanted
    mirror: MirrorAnswer
    ports: tuple[Port, ...] = field(default=())
    token_fault: str = ""
    file: File | None = None
    """None where no file is given."""


def judge_daemon(facts: DaemonFacts) -> list[Finding]:
    """What is wrong with the daemon."""
    checkup = facts.node.checkup
    if checkup is None:
        return [*_judge_silence(facts), *_judge_mirror(facts)]
    found = _judge_file(facts.file, checkup.particulars)
    told = checkup.particulars
    differing = [
        f"its {name} is {theirs} and not {ours}"
        for name, theirs, ours in (
            ("store", told.store, facts.wanted.store),
            ("proxy", told.proxy, facts.wanted.proxy),
            ("peer port", told.peer.rpartition(":")[2], facts.wanted.peer_port),
        )
        if theirs != ours and not f":{ours}".endswith(_ANY_PORT)
    ]
    if differing:
        text = (
            f"Process {told.pid} answers at {facts.node.address} and is not the daemon of this configuration: "
            f"{', '.join(differing)}."
        )
        remedy = (
            "Give `shoal doctor` the file and flags that the daemon was started with (`--config FILE`); where two "
            "daemons are to run here, give each its own `peer.operations.port`, `peer.port`, `proxy.port` and "
            "`peer.store`."
        )
        found.append(Finding("daemon-other", "error", text, remedy))
    else:
        text = f"The daemon (process {told.pid}, version {told.version}) has been up for {format_age(checkup.uptime)}."
        found.append(Finding("daemon-up", "ok", text))
    if facts.wanted.supernode not in {"", told.supernode}:
        text = (
            f"The daemon's supernode is {told.supernode or 'none'}, and the configuration says "
            f"{facts.wanted.supernode}."
        )
        remedy = "Restart the daemon with this configuration: `systemctl restart shoal-peer`, or as you started it."
        found.append(Finding("daemon-other-supernode", "warning", text, remedy))
    if told.version != VERSION:
        text = f"The daemon is of version {told.version}, and this command of version {VERSION}."
        remedy = "Restart the daemon: `systemctl restart shoal-peer`, or as you started it."
        found.append(Finding("daemon-version", "warning", text, remedy))
    found += _judge_mirror(facts)
    if facts.token_fault:
        remedy = "Run commands such as `shoal pin` and `shoal rm` as root or as the daemon's user."
        found.append(
            Finding("token-unreadable", "warning", f"This user may not change the node: {facts.token_fault}.", remedy)
        )
    return found


def _judge_file(file: File | None, told: Particulars) -> list[Finding]:
    if file is None or file.changed > told.configured - _SLACK_SECONDS:
        return []
    text = (
        f"{file.path} was changed {format_age(file.changed)} ago, and the daemon has read its configuration "
        f"{format_age(told.configured)} ago."
    )
    remedy = "Run `shoal reload`, which says what holds at once and what needs a restart."
    return [Finding("daemon-not-reloaded", "warning", text, remedy)]


def _judge_silence(facts: DaemonFacts) -> list[Finding]:
    """Why no daemon answers."""
    answer = facts.node
    twice = [port for port in facts.ports if any(port.excludes(other) for other in facts.ports)]
    if twice:
        keys = " and ".join(f"`{port.key}`" for port in twice)
        text = f"The daemon cannot start: {keys} are one port, {twice[0].number}."
        return [Finding("ports-equal", "error", text, f"Give {keys} different ports.")]
    taken = [port for port in facts.ports if port.listener is not None]
    if answer.fault == "refused" and taken:
        found = []
        for port in taken:
            text = f"Port {port.number} (`{port.key}`) is taken by {port.listener}, so that this daemon cannot start."
            remedy = (
                f"Stop {port.listener}, or give this daemon another `{port.key}`; two daemons on one machine need four "
                "settings of their own: `proxy.port`, `peer.port`, `peer.operations.port` and `peer.store`."
            )
            found.append(Finding("port-taken", "error", text, remedy))
        return found
    if answer.fault == "refused":
        text = f"The daemon is not running: nobody listens at {answer.address} (`peer.operations`)."
        remedy = (
            "Start it: `systemctl start shoal-peer`, or `shoal peer` with the configuration; why it ended stands in "
            "`journalctl -u shoal-peer`."
        )
        return [Finding("daemon-down", "error", text, remedy)]
    if answer.fault == "forbidden":
        text = f"The daemon at {answer.address} tells its state to nobody without the operator's token."
        remedy = "Run `shoal doctor` on the node itself, as root or as the daemon's user."
        return [Finding("daemon-unseen", "warning", text, remedy)]
    if answer.fault == "silent":
        text = f"The daemon does not answer at {answer.address}: {answer.detail}."
        remedy = (
            "Look at its log (`journalctl -u shoal-peer`) and whether the machine has processor and memory left; then "
            "`systemctl restart shoal-peer`."
        )
        return [Finding("daemon-silent", "error", text, remedy)]
    holder = next((port.listener for port in facts.ports if port.key == "peer.operations.port"), None)
    text = f"What answers at {answer.address} is no daemon of this version: {holder or 'a program'} ({answer.detail})."
    remedy = "Restart the daemon where it is older, else stop that program or set another `peer.operations.port`."
    return [Finding("daemon-foreign", "error", text, remedy)]


def _judge_mirror(facts: DaemonFacts) -> list[Finding]:
    mirror = facts.mirror
    if not mirror.fault:
        return [Finding("mirror-serves", "ok", f"The mirror answers at {mirror.url}.")]
    if facts.node.checkup is None and mirror.fault == "refused":
        return []  # the same is said of the daemon
    listener = next((port.listener for port in facts.ports if port.key == "proxy.port"), None)
    if mirror.fault == "refused":
        told = facts.node.checkup.particulars.proxy if facts.node.checkup else ""
        text = f"Nobody listens at {mirror.url}, where runtimes are told to ask; the daemon listens at {told}."
        remedy = "Set `proxy.host` and `proxy.port` to what the runtimes' configuration names, and restart the daemon."
        return [Finding("mirror-unreached", "error", text, remedy)]
    if mirror.fault == "foreign":
        text = f"What answers at {mirror.url} is no registry mirror but {listener or 'another program'}."
        remedy = "Stop that program, or set another `proxy.port` and write the runtimes' configuration again."
        return [Finding("mirror-foreign", "error", text, remedy)]
    text = f"The mirror at {mirror.url} gives no answer: {mirror.fault}."
    remedy = "Look at the daemon's log (`journalctl -u shoal-peer`), and restart it."
    return [Finding("mirror-silent", "error", text, remedy)]


async def examine(subject: Subject) -> list[Finding]:
    """The part of the report."""
    configuration = subject.configuration
    node, mirror, ports = await asyncio.gather(
        subject.node(), _ask_mirror(configuration), asyncio.to_thread(_ports, configuration)
    )
    wanted, token_fault = _wanted(configuration), _token_fault(configuration)
    return judge_daemon(DaemonFacts(node, wanted, mirror, ports, token_fault, _file(subject.file)))


def _file(path: Path | None) -> File | None:
    if path is None:
        return None
    try:
        return File(str(path), time.time() - path.stat().st_mtime)
    except OSError:  # it was read a moment ago
        return None


def _wanted(configuration: Configuration) -> Wanted:
    peer, proxy = configuration.peer, configuration.proxy
    return Wanted(
        str(peer.store.absolute()),
        authority(proxy.host, proxy.port),
        str(peer.port),
        peer.supernode,
    )


def _ports(configuration: Configuration) -> tuple[Port, ...]:
    peer = configuration.peer
    places = (("proxy", configuration.proxy), ("peer", peer), ("peer.operations", peer.operations))
    return tuple(Port(f"{key}.port", each.host, each.port, listener_at(each.host, each.port)) for key, each in places)


def _token_fault(configuration: Configuration) -> str:
    try:
        OperatorToken(configuration.peer.token_file).read()
    except TokenUnusable as error:
        return str(error)
    return ""


async def _ask_mirror(configuration: Configuration) -> MirrorAnswer:
    url = mirror_of(configuration.proxy).url
    try:
        async with (
            aiohttp.ClientSession(timeout=_PROXY_TIMEOUT, headers={"User-Agent": AGENT}) as session,
            session.head(f"{url}/v2/") as response,
        ):
            return MirrorAnswer(url, response.status, "" if _API in response.headers else "foreign")
    except aiohttp.ClientConnectorError as error:
        is_refused = isinstance(error.os_error, ConnectionRefusedError)
        return MirrorAnswer(url, fault="refused" if is_refused else str(error.os_error))
    except TimeoutError:
        return MirrorAnswer(url, fault="no answer in time")
    except (aiohttp.ClientError, OSError):
        return MirrorAnswer(url, fault="foreign")
