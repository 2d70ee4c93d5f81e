"""From one peer to one peer: a blob of 1 GiB that one of them has, verified and written by the other.

Three pairs take turns: of a cluster with a secret, which has the bar, of one without, and of one with mutual TLS.
"""

from __future__ import annotations

import http.client
import shutil
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import click

from bench.certificates import PROGRAM as OPENSSL
from bench.certificates import certified_members
from bench.client import pull
from bench.congestion import same_congestion_control
from bench.daemons import MEMBERS, LocalNode, free_ports, metrics, start_node, start_supernode
from bench.images import BenchImage, write_image
from bench.options import (
    file_system,
    folder_option,
    json_option,
    require_programs,
    runs_option,
    touch_memory,
    working_folder,
)
from bench.origin import PROGRAM, Distribution
from bench.processes import DidNotStart, IdleMeter
from bench.result import Check, Result, Series, publish

_SIZE = 1 << 30
_BAR, _RECEIVER_BAR, _BOTH_BAR = 1.0, 1.2, 1.6
_GB = 1e9


@dataclass
class _Contender:
    """A cluster of two, and what was measured in it."""

    name: str
    members: Mapping[str, str]
    supernode: str = ""
    seed: LocalNode | None = None
    rates: list[float] = field(default_factory=list)
    sender_cpu: list[float] = field(default_factory=list)
    receiver_cpu: list[float] = field(default_factory=list)

    @property
    def both_cpu(self) -> list[float]:
        return [sent + received for sent, received in zip(self.sender_cpu, self.receiver_cpu, strict=True)]

    @property
    def figures(self) -> dict[str, Series]:
        return {
            "rate": Series("GB/s", self.rates),
            "receiver's CPU": Series("s/GB", self.receiver_cpu),
            "sender's CPU": Series("s/GB", self.sender_cpu),
            "both ends' CPU": Series("s/GB", self.both_cpu),
        }

    @property
    def words(self) -> str:
        """Its figures in a sentence."""
        rate, both = statistics.median(self.rates), statistics.median(self.both_cpu)
        return f"{self.name}: {rate:.2f} GB/s, {both:.2f} CPU seconds per GB at both ends"

    def checks(self, suffix: str, whose: str) -> list[Check]:
        """The bars for this one's figures."""
        rate, receiver, both = (statistics.median(each) for each in (self.rates, self.receiver_cpu, self.both_cpu))
        return [
            Check(f"ratio{suffix}", rate, _BAR, False, f"GB/s, verified and written{whose}"),
            Check(f"ratio_cpu{suffix}", receiver, _RECEIVER_BAR, True, f"CPU seconds per GB, receiver{whose}"),
            Check(f"ratio_cpu_both{suffix}", both, _BOTH_BAR, True, f"CPU seconds per GB, both ends{whose}"),
        ]


@click.command()
@runs_option
@folder_option
@json_option
def command(runs: int, folder: Path | None, as_json: bool) -> None:
    """1 GiB from one peer to another over loopback."""
    require_programs(PROGRAM, OPENSSL)
    idle: list[float] = []
    try:
        with same_congestion_control() as congestion, working_folder(folder, 6 * _SIZE) as work, ExitStack() as stack:
            image = write_image(work / "registry", "bench/pair", [_SIZE])
            origin = Distribution(stack, work, free_ports(1)[0])
            with_secret, without = _Contender("secret", MEMBERS), _Contender("no secret", {})
            with_tls = _Contender("mutual TLS", certified_members(work / "certificates"))
            contenders = [with_secret, without, with_tls]
            for each in contenders:
                each.supernode = start_supernode(stack, work, each.members)
                each.seed = start_node(stack, work, f"seed, {each.name}", origin.url, each.supernode, each.members)
                pull(("127.0.0.1", each.seed.proxy), image.repository)
            for _ in range(runs):
                idle.extend([_run(each, work, origin.url, image) for each in contenders])
            where = file_system(work)
    except DidNotStart as error:
        raise click.ClickException(str(error)) from None
    checks = [*with_secret.checks("", ""), *without.checks("_open", ", without a secret")]
    setting = {"bytes": _SIZE, "stores on": where}
    figures = {each.name: each.figures for each in contenders}
    note = "; ".join(each.words for each in contenders) + ". TLS is in the process: there is no sendfile with it."
    result = Result("pair", "Peer to peer, 1 GiB", checks, figures, idle, congestion, setting, notes=[note])
    publish(result, as_json)


def _run(contender: _Contender, work: Path, origin: str, image: BenchImage) -> float:
    """One transfer; returns the share of the CPU that was idle meanwhile."""
    seed = contender.seed
    assert seed is not None
    with ExitStack() as run:
        leech = start_node(run, work, "leech", origin, contender.supernode, contender.members)
        touch_memory(work, _SIZE)
        before = seed.daemon.cpu_seconds(), leech.daemon.cpu_seconds()
        with IdleMeter() as meter:
            seconds = _seconds(leech, image)
        _check(leech)
        contender.sender_cpu.append((seed.daemon.cpu_seconds() - before[0]) / (_SIZE / _GB))
        contender.receiver_cpu.append((leech.daemon.cpu_seconds() - before[1]) / (_SIZE / _GB))
    contender.rates.append(_SIZE / seconds / _GB)
    shutil.rmtree(leech.store)
    return meter.share


def _seconds(leech: LocalNode, image: BenchImage) -> float:
    """From the request for one byte until the whole blob is verified and in the store: no client reads along."""
    layer = next(digest for digest, size in image.blobs if size > _SIZE // 2)
    stored = leech.store / "blobs/sha256" / layer.hex
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", leech.proxy)
    connection.request("GET", f"/v2/{image.repository}/blobs/{layer}", headers={"Range": "bytes=0-0"})
    connection.getresponse().read()
    leech.daemon.wait_until(stored.exists, every=0.002)
    seconds = time.monotonic() - began
    connection.close()
    return seconds


def _check(leech: LocalNode) -> None:
    counted = metrics(leech.operations)
    if counted.get('shoal_download_bytes_total{source="peer"}', 0.0) < _SIZE:
        raise DidNotStart("the blob did not come from the other peer")
