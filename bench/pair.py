"""From one peer to one peer: a blob of 1 GiB that one of them has, verified and written by the other."""

from __future__ import annotations

import http.client
import shutil
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import click

from bench.client import pull
from bench.congestion import same_congestion_control
from bench.daemons import LocalNode, free_ports, metrics, start_node, start_supernode
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


@click.command()
@runs_option
@folder_option
@json_option
def command(runs: int, folder: Path | None, as_json: bool) -> None:
    """1 GiB from one peer to another over loopback."""
    require_programs(PROGRAM)
    rates: list[float] = []
    sender_cpu: list[float] = []
    receiver_cpu: list[float] = []
    idle: list[float] = []
    try:
        with same_congestion_control() as congestion, working_folder(folder, 4 * _SIZE) as work, ExitStack() as stack:
            image = write_image(work / "registry", "bench/pair", [_SIZE])
            origin = Distribution(stack, work, free_ports(1)[0])
            supernode = start_supernode(stack, work)
            seed = start_node(stack, work, "seed", origin.url, supernode)
            pull(("127.0.0.1", seed.proxy), image.repository)
            for place in range(runs):
                with ExitStack() as run:
                    leech = start_node(run, work, f"leech{place}", origin.url, supernode)
                    touch_memory(work, _SIZE)
                    before = seed.daemon.cpu_seconds(), leech.daemon.cpu_seconds()
                    with IdleMeter() as meter:
                        seconds = _seconds(leech, image)
                    _check(leech)
                    sender_cpu.append((seed.daemon.cpu_seconds() - before[0]) / (_SIZE / _GB))
                    receiver_cpu.append((leech.daemon.cpu_seconds() - before[1]) / (_SIZE / _GB))
                rates.append(_SIZE / seconds / _GB)
                idle.append(meter.share)
                shutil.rmtree(leech.store)
            where = file_system(work)
    except DidNotStart as error:
        raise click.ClickException(str(error)) from None
    both = [sent + received for sent, received in zip(sender_cpu, receiver_cpu, strict=True)]
    figures = {
        "rate": Series("GB/s", rates),
        "receiver's CPU": Series("s/GB", receiver_cpu),
        "sender's CPU": Series("s/GB", sender_cpu),
        "both ends' CPU": Series("s/GB", both),
    }
    checks = [
        Check("ratio", statistics.median(rates), _BAR, False, "GB/s, verified and written"),
        Check("ratio_cpu", statistics.median(receiver_cpu), _RECEIVER_BAR, True, "CPU seconds per GB, receiver"),
        Check("ratio_cpu_both", statistics.median(both), _BOTH_BAR, True, "CPU seconds per GB, both ends"),
    ]
    setting = {"bytes": _SIZE, "stores on": where}
    publish(Result("pair", "Peer to peer, 1 GiB", checks, {"shoal": figures}, idle, congestion, setting), as_json)


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
    if counted.get('shoal_bytes_total{direction="in",source="peer"}', 0.0) < _SIZE:
        raise DidNotStart("the blob did not come from the other peer")
