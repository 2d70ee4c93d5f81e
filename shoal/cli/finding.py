"""What a look at this machine found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is as it should be, or is not."""

    code: str
    """Its name for scripts, `containerd-mirrors-shadow`; the same in each version."""
    level: Level
    """`error`: pulls do not go through Shoal, or fail; `warning`: some do not, or will not after a change."""
    text: str
    """What is the case, in a whole sentence."""
    remedy: str = ""
    """What to do about it, in a whole sentence; empty where nothing is to be done."""
