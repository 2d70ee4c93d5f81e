"""Pulls through caches, in turns: what `miss` and `small` have in common."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.caches import Contender, distribution_cache, nginx_cache
from bench.client import Pull, pull
from bench.daemons import start_node
from bench.images import BenchImage
from bench.options import touch_memory
from bench.origin import Distribution
from bench.processes import IdleMeter
from bench.result import Series

_TOUCHED = 500_000_000
"""Bytes that a cache may write."""

DIRECT, SHOAL, CACHE, NGINX = "direct", "shoal", "distribution's cache", "nginx proxy_cache"


@dataclass
class Figures:
    """Of one contender, of each run: seconds, seconds to the first byte of a blob, CPU seconds of the server."""

    pulls: list[Pull] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return statistics.median(each.seconds for each in self.pulls)

    @property
    def first_byte(self) -> float:
        return statistics.median(each.blob_first_byte for each in self.pulls)

    def series(self, prefix: str = "") -> dict[str, Series]:
        return {
            f"{prefix}time": Series("s", [each.seconds for each in self.pulls]),
            f"{prefix}first byte": Series("s", [each.blob_first_byte for each in self.pulls]),
            f"{prefix}CPU": Series("s", self.cpu),
        }


Open = Callable[[ExitStack, Path], Contender]
"""Starts a contender with an empty cache in a folder; it ends with the stack."""


def contenders(origin: Distribution) -> list[Open]:
    """The origin itself, Shoal and the other caches, on loopback."""
    address = ("127.0.0.1", int(origin.url.rpartition(":")[2]))
    return [
        lambda _, __: Contender(DIRECT, address, (origin.daemon,)),
        lambda stack, folder: _node(stack, folder, origin.url),
        lambda stack, folder: distribution_cache(stack, folder / "distribution", origin.url),
        lambda stack, folder: nginx_cache(stack, folder / "nginx", origin.url),
    ]


def _node(stack: ExitStack, folder: Path, url: str) -> Contender:
    node = start_node(stack, folder, "node", url)
    return Contender(SHOAL, ("127.0.0.1", node.proxy), (node.daemon,))


def take_turns(
    openers: Sequence[Open], image: BenchImage, runs: int, work: Path, idle: list[float], warm: bool = False
) -> tuple[dict[str, Figures], dict[str, Figures]]:
    """Cold pulls, and with `warm` a second pull after each; A B C A B C."""
    cold: dict[str, Figures] = {}
    again: dict[str, Figures] = {}
    for _ in range(runs):
        for opener in openers:
            with _cold(opener, work) as contender:
                _pull(contender, image, cold.setdefault(contender.name, Figures()), idle)
                if warm:
                    _pull(contender, image, again.setdefault(contender.name, Figures()), idle)
    return cold, again


@contextmanager
def _cold(opener: Open, work: Path) -> Iterator[Contender]:
    folder = work / "cold"
    folder.mkdir()
    try:
        with ExitStack() as stack:
            contender = opener(stack, folder)
            touch_memory(folder, _TOUCHED)
            yield contender
    finally:
        shutil.rmtree(folder)


def _pull(contender: Contender, image: BenchImage, figures: Figures, idle: list[float]) -> None:
    before = contender.cpu_seconds()
    with IdleMeter() as meter:
        figures.pulls.append(pull(contender.address, image.repository, make_socket=contender.make_socket))
    figures.cpu.append(contender.cpu_seconds() - before)
    idle.append(meter.share)
