"""Which nodes are to preheat: what an order says, and what that means among the nodes that are here. No I/O."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

_NUMBER = re.compile(r"([0-9]{1,6})(%?)")
_NAME = "name"
"""In place of a label: what people call a node."""
ALLOWED = "all, a number, a share such as 20%, label=value, name=NODE, or several of them with commas"


class Candidate(Protocol):
    """A node as people know it."""

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> Mapping[str, str]: ...


C = TypeVar("C", bound=Candidate)


@dataclass(frozen=True, slots=True)
class Selection:
    """Nodes with all of these labels: all of them, `count`, or `share` of them, drawn at random."""

    labels: tuple[tuple[str, str], ...] = ()
    count: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Selection:
        """Parse what people write: `all`, `3`, `20%`, `rack=b4`, `rack=b4,2`; raises `ValueError`."""
        labels: list[tuple[str, str]] = []
        count: int | None = None
        share: float | None = None
        for part in map(str.strip, text.split(",")):
            key, equals, value = part.partition("=")
            number = _NUMBER.fullmatch(part)
            if equals and key:
                labels.append((key, value))
            elif number is not None and count is None and share is None and int(number[1]):
                if number[2]:
                    share = int(number[1]) / 100
                else:
                    count = int(number[1])
            elif part != "all":
                raise ValueError(f"{text[:100]!r} names no nodes (allowed: {ALLOWED})")
        if share is not None and share > 1:
            raise ValueError(f"{text[:100]!r} is more than all nodes (allowed: {ALLOWED})")
        return cls(tuple(labels), count, share)

    @property
    def is_open(self) -> bool:
        """Whether nodes that come later belong to it too."""
        return self.count is None and self.share is None

    def takes(self, node: Candidate) -> bool:
        """Whether a node has the labels."""
        return all((node.name if key == _NAME else node.labels.get(key)) == value for key, value in self.labels)

    def choose(self, nodes: Iterable[C], rng: random.Random) -> list[C]:
        """The nodes that are meant, by name."""
        able = sorted((node for node in nodes if self.takes(node)), key=lambda node: node.name)
        count = len(able)
        if self.count is not None:
            count = min(self.count, count)
        elif self.share is not None:
            count = math.ceil(self.share * count)
        return sorted(rng.sample(able, count), key=lambda node: node.name) if count < len(able) else able
