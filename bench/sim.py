"""Simulated swarms of 16 to 10,000 peers, in which the real picker, leases and handouts decide."""

from __future__ import annotations

import time

import click

from bench.options import json_option
from bench.result import Check, Result, Series, publish
from bench.simulation import LATENCY, QUEUE, Simulation
from shoal.pieces import PieceLayout

_BAR = 1.25
_RATE = 12.5e6
"""Bytes/s of a homogeneous peer's link: 100 Mbit/s."""
_MB = 1_000_000
_SIZE = 100 * _MB
_TRANSFERS = 600_000
"""Pieces times peers of one swarm, above which the blob is made smaller: each costs 0.4 to 0.9 ms of CPU."""


@click.command()
@click.option("--peers", default="16,128,1000,10000", show_default=True, help="Sizes of the swarms.")
@click.option("--size", type=int, help="Megabytes of the blob. [default: 100, less for the largest swarms]")
@click.option("--runs", default=1, show_default=True, help="Seeds of each.")
@json_option
def command(peers: str, size: int | None, runs: int, as_json: bool) -> None:
    """Simulated swarms; `ratio` is the makespan over the bound of the largest."""
    try:
        counts = [int(text) for text in peers.split(",")]
    except ValueError:
        raise click.BadParameter(f"{peers!r} (allowed: numbers with commas)", param_hint="--peers") from None
    series: dict[str, dict[str, Series]] = {}
    for count in counts:
        blob = _affordable(count) if size is None else size * _MB
        for kind, slow, leaving in (
            ("homogeneous", 0.0, 0.0),
            ("a quarter at half the rate", 0.25, 0.0),
            ("churn", 0.0, 0.1),
        ):
            if kind != "homogeneous" and count > max(counts[0], 128):
                continue  # once is long enough
            rates = [_RATE / 2 if place < slow * count else _RATE for place in range(count)]
            ratios, medians, egress, load, took = [], [], [], [], []
            for seed in range(runs):
                began = time.monotonic()
                outcome = Simulation(blob, rates, _RATE, seed, leaving).run()
                ratios.append(outcome.ratio)
                medians.append(outcome.median / outcome.bound)
                egress.append(outcome.egress)
                load.append(outcome.messages / outcome.makespan)
                took.append(time.monotonic() - began)
            series[f"{count} peers, {blob / _MB:g} MB, {kind}"] = {
                "makespan": Series("x bound", ratios),
                "median peer": Series("x bound", medians),
                "origin egress": Series("x blob", egress),
                "supernode load": Series("messages/s", load),
                "simulated in": Series("s", took),
            }
            if kind == "homogeneous":
                largest = Series("x bound", ratios).median
    check = Check("ratio", largest, _BAR, True, f"makespan over the bound, {counts[-1]} peers")
    setting = {"link, bytes/s": _RATE, "origin, bytes/s": _RATE, "latency, s": LATENCY, "longest queue, s": QUEUE}
    publish(Result("sim", "Simulated swarms", [check], series, [], None, setting), as_json)


def _affordable(peers: int) -> int:
    """Bytes of the largest blob, up to `_SIZE`, with which a swarm of so many peers stays below `_TRANSFERS`."""
    return min(_SIZE, _TRANSFERS // peers * PieceLayout.of(_SIZE).piece_size)
