"""All scenarios, entered by their modules."""

from __future__ import annotations

from tests.faults import members, neighbours, origins
from tests.faults.suite import SCENARIOS

__all__ = ["SCENARIOS", "members", "neighbours", "origins"]
