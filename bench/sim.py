"""Simulated swarms of 16 to 10,000 peers, in which the real picker, leases and handouts decide."""

from __future__ import annotations

import time

import click

from bench.options import json_option
from bench.result import Check, Result, Series, publish
from bench.simulation import LATENCY, QUEUE, Simulation

_BAR = 1.25
_MBIT = 125_000
_MB = 1_000_000


@click.command()
@click.option("--peers", default="16,128,1000,10000", show_default=True, help="Sizes of the swarms.")
@click.option("--size", default=100, show_default=True, help="Megabytes of the blob.")
@click.option("--rate", default=50.0, show_default=True, help="Mbit/s of each link and of the origin's, as in `swarm`.")
@click.option("--runs", default=1, show_default=True, help="Seeds of each.")
@json_option
def command(peers: str, size: int, rate: float, runs: int, as_json: bool) -> None:
    """Simulated swarms; `ratio` is the makespan over the bound of the largest. 10,000 peers take half an hour."""
    try:
        counts = [int(text) for text in peers.split(",")]
    except ValueError:
        raise click.BadParameter(f"{peers!r} (allowed: numbers with commas)", param_hint="--peers") from None
    full = rate * _MBIT
    series: dict[str, dict[str, Series]] = {}
    for count in counts:
        for kind, slow, leaving in (
            ("homogeneous", 0.0, 0.0),
            ("a quarter at half the rate", 0.25, 0.0),
            ("churn", 0.0, 0.1),
        ):
            if kind != "homogeneous" and count > max(counts[0], 128):
                continue  # once is long enough
            rates = [full / 2 if place < slow * count else full for place in range(count)]
            ratios, medians, egress, load, took = [], [], [], [], []
            for seed in range(runs):
                began = time.monotonic()
                outcome = Simulation(size * _MB, rates, full, seed, leaving).run()
                ratios.append(outcome.ratio)
                medians.append(outcome.median / outcome.bound)
                egress.append(outcome.egress)
                load.append(outcome.messages / outcome.makespan)
                took.append(time.monotonic() - began)
            series[f"{count} peers, {kind}"] = {
                "makespan": Series("x bound", ratios),
                "median peer": Series("x bound", medians),
                "origin egress": Series("x blob", egress),
                "supernode load": Series("messages/s", load),
                "simulated in": Series("s", took),
            }
            if kind == "homogeneous":
                largest = Series("x bound", ratios).median
    check = Check("ratio", largest, _BAR, True, f"makespan over the bound, {counts[-1]} peers")
    setting = {
        "blob, bytes": size * _MB,
        "link, bytes/s": full,
        "origin, bytes/s": full,
        "latency, s": LATENCY,
        "longest queue, s": QUEUE,
    }
    publish(Result("sim", "Simulated swarms", [check], series, [], None, setting), as_json)
