"""What a measurement found: raw figures of every run, the ratios that have a bar, and where they were measured."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
LEAST_IDLE = 0.1
"""A run with a smaller share of idle CPU measures the machine (where the links are meant to be the limit)."""

_PACKAGES = ("aiohttp", "uvloop", "msgpack", "msgspec", "blake3")
_PROGRAMS = {
    "docker-registry": ("docker-registry", "--version"),
    "nginx": ("nginx", "-v"),
    "curl": ("curl", "--version"),
}


@dataclass(frozen=True, slots=True)
class Series:
    """One figure of one contender, in every run."""

    unit: str
    runs: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def spread(self) -> float:
        """Largest less smallest, over the median."""
        return (max(self.runs) - min(self.runs)) / self.median if self.median else 0.0

    def document(self) -> dict[str, Any]:
        """As it stands in a result's file."""
        return {
            "unit": self.unit,
            "median": _short(self.median),
            "spread": _short(self.spread),
            "runs": [_short(value) for value in self.runs],
        }


@dataclass(frozen=True, slots=True)
class Check:
    """A figure that has a bar. The one called `ratio` is the measurement's main one, others are `ratio_...`."""

    name: str
    value: float
    bar: float
    at_most: bool
    meaning: str

    @property
    def passed(self) -> bool:
        return self.value <= self.bar if self.at_most else self.value >= self.bar


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement. `contenders` maps a name to its figures by name; `checks` begins with the main one.

    `idle` is the share of the CPU that was idle in each run; `extra` goes into the file as it is.
    """

    name: str
    title: str
    checks: Sequence[Check]
    contenders: Mapping[str, Mapping[str, Series]]
    idle: Sequence[float]
    congestion: str | None = None
    setting: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def document(self) -> dict[str, Any]:
        """The result with its surroundings, as it is written and printed."""
        main = self.checks[0]
        document: dict[str, Any] = {
            "name": self.name,
            "title": self.title,
            "ratio": _short(main.value),
            "bar": main.bar,
            "pass": self.passed,
        }
        for check in self.checks[1:]:
            document[check.name] = _short(check.value)
        document["checks"] = [
            {
                "name": check.name,
                "value": _short(check.value),
                "bar": check.bar,
                "better": "lower" if check.at_most else "higher",
                "pass": check.passed,
                "meaning": check.meaning,
            }
            for check in self.checks
        ]
        document["contenders"] = {
            name: {figure: series.document() for figure, series in figures.items()}
            for name, figures in self.contenders.items()
        }
        return document | {
            "setting": dict(self.setting),
            "notes": [*self.notes, *self._idle_note()],
            "congestion": self.congestion,
            "idle": Series("share", self.idle).document() if self.idle else None,
            "machine": machine(),
            "versions": versions(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **self.extra,
        }

    def _idle_note(self) -> list[str]:
        if not self.idle or min(self.idle) >= LEAST_IDLE:
            return []
        busy = sum(1 for share in self.idle if share < LEAST_IDLE)
        return [f"{busy} of {len(self.idle)} runs left less than a tenth of the CPU idle: these measure the machine"]


def publish(result: Result, as_json: bool, folder: Path = RESULTS) -> None:
    """Write the result's file, and print it: a table, or one JSON object."""
    document = result.document()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{result.name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if as_json:
        click.echo(json.dumps(document))
    else:
        show(document, Console())


def show(document: Mapping[str, Any], console: Console) -> None:
    """Print a result's document as tables."""
    figures = Table(title=f"{document['name']}: {document['title']}", title_justify="left")
    for heading in ("contender", "figure", "median", "spread", "runs"):
        figures.add_column(heading, justify="left" if heading in {"contender", "figure"} else "right")
    for contender, series in document["contenders"].items():
        for place, (figure, values) in enumerate(series.items()):
            runs = " ".join(f"{value:g}" for value in values["runs"][:8])
            row = (contender if place == 0 else "", f"{figure} ({values['unit']})", f"{values['median']:g}")
            figures.add_row(*row, f"{values['spread']:.0%}", runs)
    checks = Table(title_justify="left")
    for heading in ("ratio", "value", "bar", "", "what it is"):
        checks.add_column(heading)
    for check in document["checks"]:
        sign = "<=" if check["better"] == "lower" else ">="
        verdict = "[green]pass[/]" if check["pass"] else "[red]MISSED[/]"
        checks.add_row(check["name"], f"{check['value']:g}", f"{sign} {check['bar']:g}", verdict, check["meaning"])
    console.print(figures)
    console.print(checks)
    if document["idle"]:
        console.print(f"CPU idle: {document['idle']['median']:.0%}; congestion control: {document['congestion']}")
    for note in document["notes"]:
        console.print(f"note: {note}")


def read(name: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """The last result of a measurement, or None."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def read_variants(name: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The last results of a measurement in other settings, which are named `name`-something."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"{name}-*.json"))]


def machine() -> dict[str, Any]:
    """The processor, the memory and the kernel."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "processor": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / (1 << 20), 1) if memory else None,
        "kernel": platform.release(),
    }


def versions() -> dict[str, str]:
    """Of what takes part."""
    found = {"python": platform.python_version(), "shoal": version("shoal")}
    found |= {package: version(package) for package in _PACKAGES}
    for name, command in _PROGRAMS.items():
        if shutil.which(name):
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            number = re.search(r"\d+\.\d+[\w.+]*", done.stdout + done.stderr)
            if number:
                found[name] = number[0]
    return found


def _short(value: float) -> float:
    return float(f"{value:.5g}")
