"""The page of results."""

from __future__ import annotations

from pathlib import Path

from bench.report import write_report
from bench.result import Check, Result, Series, publish, read, read_variants


def result(name: str, value: float) -> Result:
    check = Check("ratio", value, 1.15, True, "slowest over bound")
    return Result(name, f"title of {name}", [check], {"shoal": {"slowest": Series("x", [value, value])}}, [0.5], "reno")


def test_other_settings_of_a_measurement_stand_in_its_section(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for name, value in (("swarm", 1.1), ("swarm-many", 1.3), ("miss", 1.0)):
        publish(result(name, value), as_json=True, folder=results)
    main = read("swarm", results)
    assert main is not None
    assert [found["name"] for found in read_variants("swarm", results)] == ["swarm-many"]
    page = write_report(tmp_path / "docs", [main], results).read_text()
    assert "| title of swarm-many | 1 | slowest over bound | 1.3 | 1.15 **missed** | 50% |" in page
    assert "title of miss" not in page
