"""Draws the results into docs/benchmarks.md: bars for each, and for the swarm who got what, when, from whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot

from bench.__main__ import MEASUREMENTS
from bench.result import RESULTS, read, read_variants

DOCS = Path(__file__).parent.parent / "docs"


@click.command()
def command() -> None:
    """Draw all results into docs/benchmarks.md."""
    click.echo(write_report(DOCS, [found for name in MEASUREMENTS if (found := read(name))]))


def write_report(docs: Path, results: list[dict[str, Any]], folder: Path = RESULTS) -> Path:
    """The page and its pictures below `docs`; the page's path. `folder` has the results in other settings."""
    matplotlib.rcParams["svg.hashsalt"] = "shoal"  # the same picture is the same file
    pictures = docs / "benchmarks"
    pictures.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Benchmarks",
        "",
        "Ratios measured side by side on one machine: `make bench`, or `make bench BENCH=hit` for one;",
        "`make bench-report` draws this page from `bench/results/`. Runs are interleaved, medians are shown, and the",
        "whiskers are the smallest and the largest run; every run stands in the JSON. What others need",
        "for the same work has [a page of its own](comparison.md).",
        "",
    ]
    for result in results:
        lines += _section(result, pictures)
        lines += _variants(read_variants(result["name"], folder))
    page = docs / "benchmarks.md"
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return page


def _section(result: dict[str, Any], pictures: Path) -> list[str]:
    name = result["name"]
    lines = [f"## {name}: {result['title']}", "", "| figure | value | bar | |", "| --- | --- | --- | --- |"]
    for check in result["checks"]:
        sign = "<=" if check["better"] == "lower" else ">="
        verdict = "reached" if check["pass"] else "**missed**"
        lines.append(f"| {check['meaning']} | {check['value']:g} | {sign} {check['bar']:g} | {verdict} |")
    machine = result["machine"]
    idle = f", CPU idle {result['idle']['median']:.0%}" if result["idle"] else ""
    lines += [
        "",
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, Linux {machine['kernel']},"
        f" {result['congestion'] or 'default'} congestion control{idle}, {result['date'][:10]}.",
        "",
        *[f"- {note}" for note in result["notes"]],
        "",
    ]
    drawn = [_bars(result, pictures / f"{name}.svg")]
    if result.get("timeline"):
        drawn.append(_timeline(result["timeline"], pictures / f"{name}-timeline.svg"))
    if result.get("sent"):
        drawn.append(_matrix(result["sent"], pictures / f"{name}-sent.svg"))
    lines += [f"![{path.stem}](benchmarks/{path.name})" for path in drawn]
    return [*lines, ""]


def _variants(results: list[dict[str, Any]]) -> list[str]:
    """A row for each other setting of the same measurement."""
    if not results:
        return []
    lines = ["| other settings | runs | figure | value | bar | CPU idle |", "| --- | --- | --- | --- | --- | --- |"]
    for result in results:
        for place, check in enumerate(result["checks"]):
            runs = len(result["idle"]["runs"])
            first = f"| {result['title']} | {runs} " if place == 0 else "| | "
            verdict = "" if check["pass"] else " **missed**"
            lines.append(
                f"{first}| {check['meaning']} | {check['value']:g} | {check['bar']:g}{verdict} |"
                f" {result['idle']['median']:.0%} |"
            )
    return [*lines, ""]


def _bars(result: dict[str, Any], path: Path) -> Path:
    """One panel for each figure; the whiskers are the smallest and the largest run."""
    figures = {figure: None for found in result["contenders"].values() for figure in found}
    drawing, panels = pyplot.subplots(len(figures), 1, figsize=(8, 1.3 * len(figures) + 0.6), squeeze=False)
    for panel, figure in zip(panels[:, 0], figures, strict=True):
        found = {name: series[figure] for name, series in result["contenders"].items() if figure in series}
        medians = [series["median"] for series in found.values()]
        low = [series["median"] - min(series["runs"]) for series in found.values()]
        high = [max(series["runs"]) - series["median"] for series in found.values()]
        panel.barh(list(found), medians, xerr=[low, high], capsize=3, color="#3b7ea1")
        panel.invert_yaxis()
        panel.set_title(f"{figure} ({next(iter(found.values()))['unit']})", fontsize=9, loc="left")
        panel.tick_params(labelsize=8)
    return _saved(drawing, path)


def _timeline(samples: list[dict[str, Any]], path: Path) -> Path:
    drawing, panel = pyplot.subplots(figsize=(8, 4))
    for node in dict.fromkeys(sample["node"] for sample in samples):
        own = [sample for sample in samples if sample["node"] == node]
        panel.plot([sample["t"] for sample in own], [sample["bytes"] / 1e6 for sample in own], linewidth=1)
    panel.set_xlabel("seconds")
    panel.set_ylabel("MB received by each node")
    return _saved(drawing, path)


def _matrix(sent: list[list[float]], path: Path) -> Path:
    drawing, panel = pyplot.subplots(figsize=(6, 5))
    shown = panel.imshow([[value / 1e6 for value in row] for row in sent], cmap="viridis")
    panel.set_xlabel("to")
    panel.set_ylabel("from")
    drawing.colorbar(shown, label="MB")
    return _saved(drawing, path)


def _saved(drawing: Any, path: Path) -> Path:
    drawing.tight_layout()
    drawing.savefig(path, metadata={"Date": None})
    pyplot.close(drawing)
    return path
