"""Which nodes are meant."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from supernode.preheating.selection import Selection


@dataclass(frozen=True)
class Named:
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


NODES = [Named(f"n{number}", {"rack": "b4" if number < 4 else "b5", "disk": "ssd"}) for number in range(10)]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("all", 10),
        ("3", 3),
        ("50", 10),
        ("20%", 2),
        ("1%", 1),
        ("100%", 10),
        ("rack=b4", 4),
        ("rack=b4,2", 2),
        ("rack=b4,disk=ssd,50%", 2),
        ("rack=b6", 0),
        ("name=n7", 1),
    ],
)
def test_nodes_are_chosen(text: str, count: int) -> None:
    chosen = Selection.parse(text).choose(NODES, random.Random(1))
    assert len({each.name for each in chosen}) == count
    assert all(each in NODES for each in chosen)


@pytest.mark.parametrize("text", ["", "0", "101%", "2,3", "some", "=b4", "-1", "1.5"])
def test_what_names_no_nodes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed"):
        Selection.parse(text)


def test_drawn_nodes_differ_from_time_to_time() -> None:
    drawn = {tuple(each.name for each in Selection.parse("2").choose(NODES, random.Random(seed))) for seed in range(20)}
    assert len(drawn) > 5
