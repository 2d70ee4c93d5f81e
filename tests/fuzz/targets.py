"""All targets by name."""

from __future__ import annotations

from tests.fuzz import files, machines, messages, text
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for target in (*text.TARGETS, *messages.TARGETS, *machines.TARGETS, *files.TARGETS)
}
