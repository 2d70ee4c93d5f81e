"""All scenarios, entered by their modules."""

from __future__ import annotations

from tests.faults import disks, hostile, links, members, neighbours, origins, soak, versions
from tests.faults.suite import SCENARIOS

__all__ = ["SCENARIOS", "disks", "hostile", "links", "members", "neighbours", "origins", "soak", "versions"]
