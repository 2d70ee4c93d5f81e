"""What the tracker counts for operators: plain numbers that only grow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Counts since the start; no decision looks at them."""

    granted: int = 0
    """Leases."""
    revoked: int = 0
    first_bytes: int = 0
    """Of pieces that peers fetched by leases and that no member had."""
    again_bytes: int = 0
    """Of pieces that peers fetched by leases and that a member had."""
    answers: Counter[str] = field(default_factory=lambda: Counter(fresh=0, ask=0, missing=0, failed=0))
    """Questions about tags by the state of the answer."""
