"""A cached blob of 1 GiB from the proxy to curl, against nginx with sendfile and distribution's pull-through cache."""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import click

from bench.caches import distribution_cache, nginx_files
from bench.client import pull
from bench.congestion import same_congestion_control
from bench.daemons import free_ports, start_node
from bench.images import blob_path, write_image
from bench.options import file_system, folder_option, json_option, require_programs, runs_option, working_folder
from bench.origin import PROGRAM, Distribution
from bench.processes import IdleMeter, Program
from bench.result import Check, Result, Series, publish

_SIZE = 1 << 30
_CLIENTS = (1, 8)
_REPOSITORY = "bench/hit"


@click.command()
@json_option
@runs_option
@folder_option
def command(as_json: bool, runs: int, folder: Path | None) -> None:
    """A cached 1 GiB blob to 1 and 8 clients: throughput, and CPU-seconds per GB of the server."""
    require_programs(PROGRAM, "nginx", "curl")
    with working_folder(folder, 3 * _SIZE) as work, same_congestion_control() as congestion:
        publish(_measure(work, runs, congestion), as_json)


def _measure(work: Path, runs: int, congestion: str) -> Result:
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    idle = []
    with ExitStack() as stack:
        servers = _servers(work, stack)
        for _ in range(runs):
            for clients in _CLIENTS:
                for name, (program, url) in servers.items():
                    with IdleMeter() as meter:
                        rate, cpu = _download(program, url, clients)
                    idle.append(meter.share)
                    figures[name][f"throughput, {clients}"].append(rate)
                    figures[name][f"cpu, {clients}"].append(cpu)
    contenders = {
        name: {key: Series("GB/s" if "through" in key else "CPU-s/GB", values) for key, values in found.items()}
        for name, found in figures.items()
    }

    def over(opponent: str, figure: str) -> list[float]:
        mine, other = contenders["shoal"], contenders[opponent]
        return [mine[f"{figure}, {n}"].median / other[f"{figure}, {n}"].median for n in _CLIENTS]

    checks = [
        Check(
            "ratio", min(over("nginx", "throughput")), 0.9, False, "throughput over nginx's, worse of 1 and 8 clients"
        ),
        Check("ratio_cpu", max(over("nginx", "cpu")), 1.5, True, "CPU per GB over nginx's, worse of 1 and 8 clients"),
        Check(
            "ratio_registry", min(over("docker-registry", "throughput")), 2.0, False, "throughput over distribution's"
        ),
    ]
    setting = {"blob": _SIZE, "clients": list(_CLIENTS), "runs": runs, "file_system": file_system(work)}
    return Result("hit", "cached blob of 1 GiB to curl", checks, contenders, idle, congestion, setting)


def _servers(work: Path, stack: ExitStack) -> dict[str, tuple[Program, str]]:
    """All contenders, with the blob in the cache of each."""
    image = write_image(work / "registry", _REPOSITORY, [_SIZE])
    digest, _ = image.blobs[1]
    origin = Distribution(stack, work, free_ports(1)[0])
    node = start_node(stack, work, "node", origin.url)
    cache = distribution_cache(stack, work / "cache", origin.url)
    files = nginx_files(stack, work / "nginx", work / "registry")
    for port in (node.proxy, cache.address[1]):
        pull(("127.0.0.1", port), _REPOSITORY)
    path = f"/v2/{_REPOSITORY}/blobs/{digest}"
    stored = blob_path(work / "registry", digest).relative_to(work / "registry")
    return {
        "shoal": (node.daemon, f"http://127.0.0.1:{node.proxy}{path}"),
        "nginx": (files.programs[0], f"http://127.0.0.1:{files.address[1]}/{stored}"),
        "docker-registry": (cache.programs[0], f"http://127.0.0.1:{cache.address[1]}{path}"),
    }


def _download(program: Program, url: str, clients: int) -> tuple[float, float]:
    """GB/s over all clients, and the server's CPU-seconds per GB."""
    busy, began = program.cpu_seconds(), time.monotonic()
    running = [subprocess.Popen(["curl", "-sf", "-o", "/dev/null", url]) for _ in range(clients)]
    failed = [client.wait() for client in running]
    seconds = time.monotonic() - began
    if any(failed):
        raise click.ClickException(f"curl {url}: exit status {max(failed)}")
    gigabytes = clients * _SIZE / 1e9
    return gigabytes / seconds, (program.cpu_seconds() - busy) / gigabytes
