"""An image of 60 layers of 20 to 200 KB, cold and warm: latency dominates."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path

import click

from bench.congestion import same_congestion_control
from bench.daemons import free_ports
from bench.images import write_image
from bench.options import file_system, folder_option, json_option, require_programs, runs_option, working_folder
from bench.origin import PROGRAM, Distribution
from bench.processes import DidNotStart
from bench.result import Check, Result, publish
from bench.through import CACHE, SHOAL, contenders, take_turns

_COUNT, _SMALLEST, _LARGEST = 60, 20_000, 200_000
_BAR = 1.0


@click.command()
@runs_option
@folder_option
@json_option
def command(runs: int, folder: Path | None, as_json: bool) -> None:
    """60 small layers, cold and warm."""
    require_programs(PROGRAM, "nginx")
    rng = random.Random(1)
    layers = [rng.randint(_SMALLEST, _LARGEST) for _ in range(_COUNT)]
    idle: list[float] = []
    try:
        with (
            same_congestion_control() as congestion,
            working_folder(folder, 4 * sum(layers)) as work,
            ExitStack() as stack,
        ):
            image = write_image(work / "registry", "bench/small", layers)
            origin = Distribution(stack, work, free_ports(1)[0])
            cold, warm = take_turns(contenders(origin), image, runs, work, idle, warm=True)
            where = file_system(work)
    except DidNotStart as error:
        raise click.ClickException(str(error)) from None
    checks = [
        Check("ratio", cold[SHOAL].seconds / cold[CACHE].seconds, _BAR, True, "cold: time of distribution's cache's"),
        Check(
            "ratio_warm", warm[SHOAL].seconds / warm[CACHE].seconds, _BAR, True, "warm: time of distribution's cache's"
        ),
    ]
    series = {name: figures.series("cold, ") | warm[name].series("warm, ") for name, figures in cold.items()}
    setting = {"layers": layers, "stores on": where}
    publish(Result("small", "60 layers of 20 to 200 KB", checks, series, idle, congestion, setting), as_json)
