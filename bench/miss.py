"""An image of 300 MB that is not cached: through the proxy, straight from the origin, and through other caches."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import click

from bench.caches import Contender
from bench.cluster import REGISTRY_PORT, HostDaemon
from bench.congestion import same_congestion_control
from bench.daemons import REGISTRY, free_ports
from bench.images import BenchImage, write_image
from bench.netns import Host, Network, NotPossible, socket_in
from bench.options import (
    file_system,
    folder_option,
    json_option,
    require_programs,
    require_root,
    runs_option,
    working_folder,
)
from bench.origin import PROGRAM, Distribution, distribution_config
from bench.processes import DidNotStart
from bench.result import Check, Result, publish
from bench.through import CACHE, DIRECT, SHOAL, Figures, contenders, take_turns

_LAYERS = (120_000_000, 80_000_000, 60_000_000, 30_000_000, 10_000_000)
_LINK = 1_000_000_000
"""Bit/s of the shaped link, each way."""
_TIME_BAR, _FIRST_BYTE_BAR, _UNSHAPED_BAR = 1.05, 0.010, 0.8
_PROXY_PORT = 5080


@click.command()
@runs_option
@folder_option
@json_option
def command(runs: int, folder: Path | None, as_json: bool) -> None:
    """An uncached image of 300 MB, over a link of 1 Gbit/s and unshaped; needs root."""
    require_root()
    require_programs(PROGRAM, "nginx", "ip", "tc")
    idle: list[float] = []
    try:
        with same_congestion_control() as congestion, working_folder(folder, 4 * sum(_LAYERS)) as work:
            image = write_image(work / "registry", "bench/miss", _LAYERS)
            with ExitStack() as stack:
                origin = Distribution(stack, work, free_ports(1)[0])
                unshaped, _ = take_turns(contenders(origin), image, runs, work, idle)
            shaped = _over_a_link(image, runs, work, congestion, idle)
            where = file_system(work)
    except (NotPossible, DidNotStart) as error:
        raise click.ClickException(str(error)) from None
    later = shaped[SHOAL].first_byte - shaped[DIRECT].first_byte
    checks = [
        Check(
            "ratio",
            shaped[SHOAL].seconds / shaped[DIRECT].seconds,
            _TIME_BAR,
            True,
            "time of a direct pull's over 1 Gbit/s",
        ),
        Check("ratio_first_byte", later, _FIRST_BYTE_BAR, True, "seconds by which the first byte comes later"),
        Check(
            "ratio_unshaped",
            unshaped[SHOAL].seconds / unshaped[CACHE].seconds,
            _UNSHAPED_BAR,
            True,
            "time of distribution's cache's, unshaped",
        ),
    ]
    series = {name: figures.series("unshaped, ") for name, figures in unshaped.items()}
    for name, figures in shaped.items():
        series[name] = figures.series("1 Gbit/s, ") | series[name]
    setting = {"layers": list(_LAYERS), "link, bit/s": _LINK, "stores on": where}
    publish(Result("miss", "An image of 300 MB that is not cached", checks, series, idle, congestion, setting), as_json)


def _over_a_link(image: BenchImage, runs: int, work: Path, congestion: str, idle: list[float]) -> dict[str, Figures]:
    """Origin and client on hosts of their own, a shaped link between them."""
    with Network([_LINK, 0], congestion) as network, ExitStack() as stack:
        far, near = network.hosts
        config = work / "shaped.json"
        config.write_text(json.dumps(distribution_config(work / "registry", f"0.0.0.0:{REGISTRY_PORT}")))
        registry = stack.enter_context(HostDaemon(far, [PROGRAM, "serve", str(config)], work / "shaped.log"))
        registry.wait_for(REGISTRY_PORT)
        direct = Contender(DIRECT, (far.address, REGISTRY_PORT), (registry,), lambda: socket_in(near))
        openers = [lambda *_: direct, lambda stack, folder: _node(stack, folder, near, far)]
        return take_turns(openers, image, runs, work, idle)[0]


def _node(stack: ExitStack, folder: Path, host: Host, origin: Host) -> Contender:
    upstream = f"{REGISTRY}=http://{origin.address}:{REGISTRY_PORT}"
    settings = [
        "SHOAL_PROXY__SHUTDOWN_TIMEOUT=0s",
        f"SHOAL_PROXY__DEFAULT_UPSTREAM={REGISTRY}",
        "SHOAL_PEER__SHUTDOWN_GRACE=0s",
    ]
    command = [sys.executable, "-m", "shoal.cli", "peer", "--upstream", upstream, "--store", str(folder / "store")]
    daemon = stack.enter_context(HostDaemon(host, ["env", *settings, *command], folder / "log"))
    daemon.wait_for(_PROXY_PORT)
    return Contender(SHOAL, ("127.0.0.1", _PROXY_PORT), (daemon,), lambda: socket_in(host))
