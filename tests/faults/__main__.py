"""`make faults`: the full form of the suite, with a table or one JSON object at the end."""

from __future__ import annotations

import json
import random
import signal
import sys
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from tests.faults.run import LONGEST_SILENCE, Result
from tests.faults.scenarios import SCENARIOS
from tests.faults.suite import Driver, Totals, lacking, plan

_SEEDS = 1 << 30
_WIDTH = 160


@click.command()
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on stdout.")
@click.option("--seed", type=int, help="The first run's seed; drawn unless told.")
@click.option("--fault", "faults", multiple=True, help="Only this one; may be given several times.")
@click.option("--runs", default=0, help="Runs of each fault; as many as it says unless told.")
def main(as_json: bool, seed: int | None, faults: tuple[str, ...], runs: int) -> None:
    """Drive faults in the middle of pulls; status 0 only if every run was good."""
    unknown = [name for name in faults if name not in SCENARIOS]
    if unknown:
        raise click.BadParameter(f"no such fault: {', '.join(unknown)} (there are: {', '.join(SCENARIOS)})")
    console = Console(stderr=True, width=_WIDTH)
    seed = random.randrange(_SEEDS) if seed is None else seed
    total, each = Totals(), {name: Totals() for name in faults or SCENARIOS}
    for name in [name for name in each if lacking(SCENARIOS[name])]:
        console.print(f"{name}: not driven, for want of {', '.join(lacking(SCENARIOS[name]))}")
        del each[name]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all that was started ends with it
    with Driver() as driver:
        for scenario, number in plan(seed, list(each), runs):
            result = driver.run(scenario, number)
            total.add(result)
            each[scenario.name].add(result)
            _print(console, result)
    shown = {name: _shown(totals) for name, totals in each.items()}
    if as_json:
        click.echo(json.dumps({**_shown(total), "faults": shown}, indent=2))
    else:
        _print_table(each, total)
    sys.exit(0 if total.failed == 0 and total.longest_silence_s <= LONGEST_SILENCE else 1)


def _shown(totals: Totals) -> dict[str, object]:
    return asdict(totals)


def _print(console: Console, result: Result) -> None:
    verdict = "FAILED" if result.complaints else "good"
    console.print(
        f"{result.fault} SEED={result.seed}: {verdict}, {result.right_images} of {result.pulls} images, silence "
        f"{result.silence:.2f} s, recovery {result.recovery:.2f} s, {result.seconds:.1f} s",
        highlight=False,
    )
    for text in result.notes + result.complaints:
        console.print(f"    {text}", highlight=False, markup=False)


def _print_table(each: dict[str, Totals], total: Totals) -> None:
    table = Table(title="faults")
    for heading in ("fault", "runs", "failed", "pulls", "right", "errors", "wrong", "left over", "silence", "recovery"):
        table.add_column(heading, justify="left" if heading == "fault" else "right")
    for name, row in [*each.items(), ("all", total)]:
        counts = (row.runs, row.failed, row.pulls, row.right_images, row.clean_errors, row.wrong_bytes, row.leftovers)
        seconds = (f"{row.longest_silence_s:.2f}", f"{row.longest_recovery_s:.2f}")
        table.add_row(name, *map(str, counts), *seconds)
    Console(width=_WIDTH).print(table)


if __name__ == "__main__":
    main()
