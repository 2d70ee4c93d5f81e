"""What the documents mention is there: settings, files, metrics, alerts, units, modules and figures."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

from manual.settings import NAME, settings_of, tables
from tests.acceptance.documents import ROOT, commands, documents, spans, typed

_ROOMS = ("shoal", "supernode", "peer", "proxy")
_FOLDERS = (*_ROOMS, "bench", "deploy", "docs", "manual", "tests")
_CHART = {ROOT / "docs/deployment/kubernetes.md", ROOT / "deploy/helm/shoal/README.md"}
"""Whose values are named like settings."""
_DOTTED = re.compile(r"(?:cluster|supernode|peer|proxy|log|traces)(?:\.[a-z_]+)+")


def test_settings_that_are_named_exist() -> None:
    paths = [table.path for table in tables()]
    paths += [setting.path for table in tables() for setting in settings_of(table)]
    keys = {".".join(key for key in path if key != NAME) for path in paths}
    variables = {setting.variable for table in tables() for setting in settings_of(table)}
    variables |= {f"SHOAL_{key.upper().replace('.', '__')}" for key in keys}
    sources = "".join(path.read_text() for room in _ROOMS for path in (ROOT / room).rglob("*.py"))
    for document in documents():
        for span in spans(document):
            variable = re.match(r"SHOAL_[A-Z_]+__[A-Z_]+", span)
            assert not variable or variable[0] in variables, f"{document}: {span}"
            dotted = _DOTTED.fullmatch(re.sub(r'\."[^"]+"', "", span).partition(" = ")[0])
            if dotted is None or document in _CHART:
                continue
            place = ROOT / dotted[0].replace(".", "/")
            is_module = place.is_dir() or place.with_suffix(".py").exists()
            assert dotted[0] in keys or is_module or f'"{dotted[0]}"' in sources, f"{document}: {span}"


def test_files_and_targets_that_are_named_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for document in documents():
        lines = [tuple(words) for block in typed(document) for words in commands(block.text)]
        for words in [*lines, *(tuple(span.split()) for span in spans(document))]:
            for target in words[1:] if words and words[0] == "make" else ():
                assert "=" in target or target in targets, f"{document}: make {target}"
            for word in words:
                folder, slash, rest = word.partition("/")
                if slash and rest and folder in _FOLDERS and re.fullmatch(r"[\w./-]+", word):
                    assert (ROOT / word).exists(), f"{document}: {word}"


def test_figures_are_those_of_the_last_measurements() -> None:
    """A page that quotes one is written anew when `bench/results/` is."""
    swarm, fast, killed = (figure(name) for name in ("swarm", "swarm-100", "swarm-kill"))
    memory, control = figure("memory"), figure("control")
    loads = json.loads((ROOT / "bench/results/sim.json").read_text())["contenders"]
    messages = {int(name.split()[0]): each["supernode load"]["median"] for name, each in loads.items()}
    quoted = {
        "README.md": [f"| {swarm:.1f} | 4.5 to 8.2 |"],
        "docs/comparison.md": [f"| {swarm:.2f} (1.0) |", f"| {fast:.2f} (1.0) |", f"Shoal {memory:.0f} MiB"],
        "docs/how-it-works.md": [f"needs {swarm:.2f} of that bound"],
        "docs/operations.md": [
            f"{memory:.0f} MiB while it pulls a blob of 10 GiB",
            f"takes {rounded(control):,} messages per second",
            f"needed {killed:.2f} of the lower bound",
            *(
                f"| {rounded(messages[count]):,} | {messages[count] / control:.0%}".replace("%", " %")
                for count in (1000, 10_000)
            ),
        ],
    }
    for document, texts in quoted.items():
        page = " ".join((ROOT / document).read_text().split())
        for text in texts:
            assert text in page, f"{document}: {text}"


def figure(result: str) -> float:
    value: float = json.loads((ROOT / f"bench/results/{result}.json").read_text())["ratio"]
    return value


def rounded(number: float) -> int:
    """To three digits."""
    return int(round(number, 2 - math.floor(math.log10(number))))


def test_metrics_alerts_and_paths_that_are_named_exist() -> None:
    metrics = set(re.findall(r"^\| `(shoal_\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    metrics |= {f"{name}_{part}" for name in metrics for part in ("bucket", "sum", "count")}
    alerts = re.findall(r"alert: (\w+)", (ROOT / "deploy/prometheus/alerts.yml").read_text())
    sources = "".join(path.read_text() for room in _ROOMS for path in (ROOT / room).rglob("*.py"))
    for document in documents():
        for span in spans(document):
            assert metrics.issuperset(re.findall(r"\bshoal_(?!session\b)[a-z]\w+", span)), f"{document}: {span}"
            assert set(re.findall(r"^Shoal[A-Z]\w+$", span)) <= set(alerts), f"{document}: {span}"
            for path in re.findall(r"/v1/[a-z]+", span):
                assert path in sources, f"{document}: {span}"


def test_units_that_are_named_exist() -> None:
    """In the documents, and in what the program says."""
    units = {path.stem for path in (ROOT / "deploy/systemd").glob("*.service")}
    for path in [*documents(), *(path for room in _ROOMS for path in (ROOT / room).rglob("*.py"))]:
        named = re.findall(r"(?:systemctl [a-z]+(?: --now)?|journalctl -u) (shoal[\w-]*)", path.read_text())
        assert units.issuperset(named), path


def test_the_table_of_rooms_has_each_package_and_no_module_that_is_gone() -> None:
    table = re.findall(
        r"^\| `([a-z.]+)` \| [^|]* \| ([^|]*) \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE
    )
    assert {package for package, _ in table} == {".".join(folder.parts) for folder in packages()}
    for package, text in table:
        gone = [
            name
            for name in re.findall(r"`(\w+)`", text)
            if not (ROOT / package.replace(".", "/") / f"{name}.py").exists()
        ]
        assert not gone, package


def packages() -> Iterator[Path]:
    for room in _ROOMS:
        yield from (path.parent.relative_to(ROOT) for path in (ROOT / room).rglob("__init__.py"))
