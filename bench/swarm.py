"""N nodes on shaped links pull one image at once: the slowest client against the lower bound of any exchange.

Every node is a network namespace with a real daemon and a client of its own, the origin is distribution's registry in
another, and the supernode runs beside the origin. The rates in the bound are those of a plain TCP transfer over the
same links in the same run.
"""

from __future__ import annotations

import http.client
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from bench.client import Pull, WrongContent, pull
from bench.cluster import PROXY_PORT, REGISTRY_PORT, Cluster, Sampler
from bench.congestion import chosen
from bench.images import BenchImage, write_image
from bench.netns import Host, Network, NotPossible, socket_in
from bench.options import folder_option, json_option, require_programs, require_root, runs_option, working_folder
from bench.origin import PROGRAM
from bench.processes import DidNotStart, IdleMeter
from bench.result import Check, Result, Series, publish

_NAME = "swarm"
MB = 1_000_000
IMAGES = {"five": [20 * MB] * 5, "one": [100 * MB], "many": [40 * MB] + [MB] * 40}
"""Layers, in bytes: five of 20 MB, a single one of 100 MB, one of 40 MB with 40 of 1 MB."""

MAX_SLOWEST, MAX_SLOWEST_AFTER_KILL, MAX_EGRESS = 1.15, 1.3, 1.02
_KILL_AT = 0.4
"""When a node is killed, as a part of the bound."""
_SLOW_FACTOR = 0.5
_TIMELINE_POINTS = 60
_MBIT = 1_000_000


@dataclass(frozen=True)
class Setting:
    """What is measured. Rates in Mbit/s, each way; `stagger` seconds between the clients' starts."""

    nodes: int
    rate: float
    origin_rate: float
    image: str
    stagger: float = 0.0
    kill: int = 0
    slow: int = 0
    """Nodes on links of half the rate."""


@dataclass
class Run:
    """One run. Times in seconds; `seconds` of each node, None where it was killed."""

    bound: float
    seconds: list[float | None]
    first_bytes: list[float]
    egress: float
    requests: int
    idle: float
    cpu_seconds: float
    slow: int
    timeline: list[dict[str, Any]] = field(default_factory=list)
    sent: list[list[int]] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Of the nodes at full rate that were not killed, over the bound."""
        return [seconds / self.bound for seconds in self.seconds[self.slow :] if seconds is not None]

    @property
    def slowest(self) -> float:
        return max(self.ratios)


@click.command()
@click.option("--nodes", default=16, show_default=True, type=click.IntRange(2, 120))
@click.option("--rate", default=50.0, show_default=True, help="Each node's link, Mbit/s each way.")
@click.option("--origin-rate", default=50.0, show_default=True, help="The origin's link, Mbit/s.")
@click.option("--image", default="five", show_default=True, type=click.Choice(list(IMAGES)))
@click.option("--stagger", default=0.0, show_default=True, help="Seconds between the clients' starts.")
@click.option("--kill", default=0, show_default=True, help="Nodes killed in mid-pull.")
@click.option("--slow", default=0, show_default=True, help="Nodes on links of half the rate.")
@click.option("--direct/--no-direct", default=False, help="Also N pulls straight from the origin, once.")
@click.option("--name", default=_NAME, show_default=True, help="The result's name: swarm-SOMETHING for other settings.")
@runs_option
@folder_option
@json_option
def command(direct: bool, name: str, runs: int, folder: Path | None, as_json: bool, **options: Any) -> None:
    """N nodes on shaped links pull an image at once; needs root."""
    require_root()
    require_programs(PROGRAM, "ip", "tc", "ss")
    setting = Setting(**options)
    size = sum(IMAGES[setting.image])
    try:
        with working_folder(folder, (setting.nodes + 1) * size) as work:
            image = write_image(work / "registry", f"bench/{setting.image}", IMAGES[setting.image])
            done = [run(setting, image, work) for _ in range(runs)]
            straight = [run_direct(setting, image, work)] if direct else []
    except (NotPossible, DidNotStart) as error:
        raise click.ClickException(str(error)) from None
    publish(_result(name, setting, done, straight), as_json)


def run(setting: Setting, image: BenchImage, work: Path) -> Run:
    """Cold daemons and cold stores, one pull on every node."""
    folder = work / "run"
    folder.mkdir()
    try:
        with _network(setting) as network, Cluster(network, work / "registry", folder) as cluster:
            cluster.wait_until_joined()
            return _measured(setting, image, network, cluster)
    finally:
        shutil.rmtree(folder)


def _network(setting: Setting) -> Network:
    nodes = [setting.rate * (_SLOW_FACTOR if place < setting.slow else 1.0) for place in range(setting.nodes)]
    return Network([round(rate * _MBIT) for rate in (setting.origin_rate, *nodes, 0)], chosen())


def _measured(setting: Setting, image: BenchImage, network: Network, cluster: Cluster) -> Run:
    bound = _bound(setting, image, network, cluster)
    killer = threading.Timer(bound * _KILL_AT, cluster.kill, (setting.kill,))
    if setting.kill:
        killer.start()
    with IdleMeter() as idle, Sampler(network) as sampler:
        pulls = _pull_all(setting, image, cluster.nodes, PROXY_PORT)
    killer.join() if setting.kill else None
    requests, sent = cluster.origin_traffic()
    alive = cluster.daemons[setting.kill :]
    return Run(
        bound,
        [each.seconds if each else None for each in pulls],
        [each.blob_first_byte for each in pulls if each],
        sent / image.size,
        requests,
        idle.share,
        sum(daemon.cpu_seconds() for daemon in alive),
        setting.slow,
        _timeline(sampler),
        _matrix(cluster.nodes),
    )


def _bound(setting: Setting, image: BenchImage, network: Network, cluster: Cluster) -> float:
    """max(S/Bo, S/B, N*S/(Bo + N*B)) in seconds, with rates of a plain transfer over the same links."""
    rate = network.measure(cluster.nodes[-1], cluster.probe)
    origin = network.measure(cluster.origin, cluster.probe)
    total = sum(node.rate for node in cluster.nodes) / cluster.nodes[-1].rate * rate
    return max(image.size / origin, image.size / rate, setting.nodes * image.size / (origin + total))


def _pull_all(setting: Setting, image: BenchImage, nodes: Sequence[Host], port: int) -> list[Pull | None]:
    """One client on each node, all at once; None where the node was killed."""

    def client(place: int) -> Pull | None:
        time.sleep(place * setting.stagger)
        host = nodes[place]
        address = "127.0.0.1" if port == PROXY_PORT else _origin_address(nodes)
        try:
            return pull((address, port), image.repository, make_socket=lambda: socket_in(host))
        except (OSError, http.client.HTTPException, WrongContent):
            if place < setting.kill:
                return None
            raise

    with ThreadPoolExecutor(len(nodes)) as clients:
        return list(clients.map(client, range(len(nodes))))


def _origin_address(nodes: Sequence[Host]) -> str:
    return nodes[0].address.rpartition(".")[0] + ".1"


def run_direct(setting: Setting, image: BenchImage, work: Path) -> Run:
    """The same pulls straight from the origin."""
    folder = work / "direct"
    folder.mkdir()
    try:
        with _network(setting) as network, Cluster(network, work / "registry", folder, daemons=False) as cluster:
            bound = _bound(setting, image, network, cluster)
            with IdleMeter() as idle:
                pulls = _pull_all(setting, image, cluster.nodes, REGISTRY_PORT)
            requests, sent = cluster.origin_traffic()
            seconds = [each.seconds if each else None for each in pulls]
            return Run(bound, seconds, [], sent / image.size, requests, idle.share, 0.0, setting.slow)
    finally:
        shutil.rmtree(folder)


def _timeline(sampler: Sampler) -> list[dict[str, Any]]:
    """Bytes that each host had received by then; host 0 is the origin, whose sent bytes stand for it."""
    samples = sampler.samples[:: max(1, len(sampler.samples) // _TIMELINE_POINTS)]
    return [
        {"t": round(when, 2), "node": place, "bytes": ports[place][0] if place else ports[place][1]}
        for when, ports in samples
        for place in range(len(ports) - 1)
    ]


def _matrix(nodes: Sequence[Host]) -> list[list[int]]:
    """Bytes that each node has sent to each other over connections that are still open, headers and all, by `ss`."""
    places = {node.address: place for place, node in enumerate(nodes)}
    matrix = [[0] * len(nodes) for _ in nodes]
    for sender, node in enumerate(nodes):
        said = subprocess.run(
            node.command(["ss", "-tinHO", "state", "established"]), check=False, capture_output=True, text=True
        ).stdout
        for line in said.splitlines():
            words = line.split()
            receiver = places.get(words[3].rpartition(":")[0]) if len(words) > 3 else None
            sent = next((int(word.partition(":")[2]) for word in words if word.startswith("bytes_sent:")), 0)
            if receiver is not None:
                matrix[sender][receiver] += sent
    return matrix


def _result(name: str, setting: Setting, runs: list[Run], direct: list[Run]) -> Result:
    slowest = statistics.median(each.slowest for each in runs)
    bar = MAX_SLOWEST_AFTER_KILL if setting.kill else MAX_SLOWEST
    figures = {
        "slowest client": Series("x bound", [each.slowest for each in runs]),
        "median client": Series("x bound", [statistics.median(each.ratios) for each in runs]),
        "first byte": Series("s", [statistics.median(each.first_bytes) for each in runs]),
        "bound": Series("s", [each.bound for each in runs]),
        "origin egress": Series("x image", [each.egress for each in runs]),
        "origin requests": Series("requests", [each.requests for each in runs]),
        "CPU of all peers": Series("s", [each.cpu_seconds for each in runs]),
    }
    contenders = {"shoal": figures}
    if direct:
        contenders["direct"] = {
            "slowest client": Series("x bound", [each.slowest for each in direct]),
            "origin egress": Series("x image", [each.egress for each in direct]),
        }
    middle = min(runs, key=lambda each: abs(each.slowest - slowest))
    egress = statistics.median(each.egress for each in runs)
    what = (
        f"{setting.nodes} nodes at {setting.rate:g} Mbit/s, origin at {setting.origin_rate:g}, image {setting.image!r}"
        + (f", {setting.kill} killed" if setting.kill else "")
        + (f", {setting.slow} at half the rate" if setting.slow else "")
    )
    return Result(
        name,
        f"Swarm: {what}",
        [
            Check("ratio", slowest, bar, True, "slowest client over the lower bound, median of the runs"),
            Check("ratio_egress", egress, MAX_EGRESS, True, "bytes that left the origin over the image"),
        ],
        contenders,
        [each.idle for each in runs],
        chosen(),
        {**setting.__dict__, "queue": "tbf burst 128kb latency 50ms"},
        extra={"timeline": middle.timeline, "sent": middle.sent} if name == _NAME else {},
    )
