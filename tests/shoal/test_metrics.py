"""Names of metrics, and all that is written down by them: the page, the dashboard and the alert rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.world.exported import PAGE, Exported, of_node, of_supernode, page_with_tables

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "shoal.json"
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
RULE_TESTS = ROOT / "deploy" / "prometheus" / "alerts.test.yml"

OF_TARGETS = {"cluster", "instance", "job", "le"}
"""Labels that Prometheus itself, or its configuration, gives to all series, and that of buckets."""
UNITS = ("bytes", "seconds", "requests", "bytes_per_second")
NOT_BASE = re.compile(r"milli|micro|kilo|mega|minutes|hours|_ms\b|percent|_kb|_mb", re.IGNORECASE)
VARIABLES = {"$__rate_interval": "5m", "$__range": "6h"}


@pytest.fixture
async def node(tmp_path: Path) -> list[Exported]:
    return await of_node(tmp_path / "store")


@pytest.fixture
async def supernode() -> list[Exported]:
    return await of_supernode()


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """All expressions that are shipped or documented, with where each stands."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for line in PAGE.read_text().splitlines():
        if (line.endswith("` |") and line.startswith("| which")) or line.startswith(("| how", "| does")):
            yield "docs/metrics.md", line.split("`")[1]


def selectors(expression: Any) -> Iterator[Any]:
    """All vector selectors of a parsed expression."""
    found: list[Any] = []

    def look(each: Any) -> bool:
        if isinstance(each, promql_parser.VectorSelector):
            found.append(each)
        if isinstance(each, promql_parser.MatrixSelector):
            found.append(each.vector_selector)
        return True

    promql_parser.walk(expression, look)
    yield from found


def grouped_by(expression: Any) -> set[str]:
    """All labels by which a parsed expression groups or matches."""
    labels: set[str] = set()

    def look(each: Any) -> bool:
        modifier = getattr(each, "modifier", None)
        if isinstance(each, promql_parser.AggregateExpr) and modifier is not None:
            labels.update(modifier.labels)
        elif isinstance(each, promql_parser.BinaryExpr) and modifier is not None and modifier.matching is not None:
            labels.update(modifier.matching.labels)
        return True

    promql_parser.walk(expression, look)
    return labels


def parsed(query: str) -> Any:
    for variable, text in VARIABLES.items():
        query = query.replace(variable, text)
    return promql_parser.parse(query)


async def test_names_follow_the_conventions(node: list[Exported], supernode: list[Exported]) -> None:
    for each in {*node, *supernode}:
        if not each.name.startswith("shoal_"):
            continue
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", each.name), each.name
        assert each.name.endswith("_total") == (each.kind == "counter"), each.name
        assert each.name.endswith("_info") == (each.kind == "info"), each.name
        assert not NOT_BASE.search(each.name), each.name
        bare = each.name.removesuffix("_total")
        for unit in UNITS:
            if f"_{unit}_" in f"{bare}_" and not bare.endswith("bytes_per_second"):
                assert bare.endswith(f"_{unit}"), f"the unit of {each.name} is not its end"
        if "timestamp" in bare:
            assert bare.endswith("_timestamp_seconds")
            assert each.kind == "gauge"
        assert each.meaning[0].isupper() or each.meaning[0].isdigit(), each
        assert each.meaning.endswith("."), f"what {each.name} means is no whole sentence"


async def test_the_page_has_the_tables_that_the_code_makes(node: list[Exported], supernode: list[Exported]) -> None:
    page = PAGE.read_text()
    assert page == page_with_tables(page, node, supernode), "run python -m tests.world.exported"


async def test_queries_name_what_is_exported(node: list[Exported], supernode: list[Exported]) -> None:
    exported = {series: each for each in (*node, *supernode) for series in each.series}
    seen = 0
    for place, query in queries():
        for selector in selectors(parsed(query)):
            metric = exported.get(selector.name)
            assert metric is not None, f"{place}: nothing exports {selector.name}"
            known = {*metric.labels, *OF_TARGETS}
            for matcher in selector.matchers.matchers:
                assert matcher.name in known, f"{place}: {selector.name} has no label {matcher.name}"
                values = {value for label, value in metric.values if label == matcher.name}
                if values and matcher.name not in OF_TARGETS:
                    assert {*matcher.value.split("|")} <= values, f"{place}: {matcher.name} of {selector.name}"
            seen += 1
    assert seen > 100


async def test_queries_group_by_labels_that_are_there(node: list[Exported], supernode: list[Exported]) -> None:
    exported = {series: each for each in (*node, *supernode) for series in each.series}
    for place, query in queries():
        expression = parsed(query)
        known = {label for each in selectors(expression) for label in exported[each.name].labels} | OF_TARGETS
        assert grouped_by(expression) <= known, f"{place}: {query}"


def test_legends_name_labels_that_queries_keep() -> None:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert wanted <= grouped_by(parsed(target["expr"])), panel["title"]


def test_panels_are_apart_and_say_what_they_show() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels if panel["type"] == "row"}) == 3
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert {each["name"] for each in dashboard["templating"]["list"]} == {"datasource", "cluster", "instance"}


def test_each_alert_says_what_to_do_and_is_tested() -> None:
    headings = {line.removeprefix("#### ").strip() for line in PAGE.read_text().splitlines() if line.startswith("####")}
    tested = {test["name"] for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]}
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    assert set(names) == headings == tested
    for rule in rules():
        assert rule["annotations"]["runbook_url"].endswith(f"docs/metrics.md#{rule['alert'].lower()}")
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        for text in ("summary", "description"):
            assert rule["annotations"][text].rstrip().endswith("."), rule["alert"]


def test_tests_of_alerts_name_what_is_exported(tmp_path: Path, supernode: list[Exported]) -> None:
    for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]:
        fired = [sample["labels"] for each in test["promql_expr_test"] for sample in each["exp_samples"]]
        assert fired, f"{test['name']} never fires in its test"
        assert all('="bad"' in labels for labels in fired)
