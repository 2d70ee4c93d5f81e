"""Clients that pull images as runtimes do, and tell what they got and how long nothing came."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from tests.world.client import Got, fetch
from tests.world.nodes import Node

_LAYERS_AT_A_TIME = 3

Span = tuple[float, float]
"""From one moment of the monotonic clock to another."""


@dataclass(frozen=True)
class Image:
    """An image that an origin has. `sizes`: bytes of its blobs by digest; `others`: digests of further manifests that
    its tag may stand for meanwhile."""

    repository: str
    digest: str
    sizes: dict[str, int]
    others: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all blobs, without the manifest."""
        return sum(self.sizes.values())

    @property
    def largest(self) -> str:
        """The digest of its largest blob."""
        return max(self.sizes, key=lambda digest: self.sizes[digest])


class Outcome(Enum):
    """How a pull ended for its client."""

    RIGHT = "right"
    ERROR = "a clear error"
    WRONG = "a complete answer of wrong bytes"
    UNCLEAR = "an error that does not say what it is"


@dataclass(frozen=True)
class Answer:
    """What came of one request."""

    path: str
    outcome: Outcome
    moments: tuple[float, ...]
    said: str

    def silences(self, excused: Collection[Span]) -> Iterator[float]:
        """Seconds without a byte, without what is excused of them."""
        for begin, end in itertools.pairwise(self.moments):
            for start, stop in sorted(excused):
                if start < end and stop > begin:
                    yield max(0.0, start - begin)
                    begin = min(max(begin, stop), end)
            yield end - begin


@dataclass
class Pull:
    """One client's pull of an image by its tag: the manifest, then its blobs, three at a time."""

    node: Node
    image: Image
    may_refuse: bool = False
    """Whether an error is an answer too."""
    received: int = 0
    """Bytes of blobs so far."""
    answers: list[Answer] = field(default_factory=list)
    ended_at: float | None = None
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> Self:
        """Pull to the end."""
        manifest = self._ask("manifests/latest", (self.image.digest, *self.image.others))
        if manifest:
            named = json.loads(manifest)
            digests = [named["config"]["digest"], *(layer["digest"] for layer in named["layers"])]
            with ThreadPoolExecutor(_LAYERS_AT_A_TIME) as pool:
                list(pool.map(lambda digest: self._ask(f"blobs/{digest}", (digest,), count=True), digests))
        self.ended_at = time.monotonic()
        return self

    @property
    def outcome(self) -> Outcome:
        """The worst of its answers."""
        found = {answer.outcome for answer in self.answers}
        return next(each for each in (Outcome.WRONG, Outcome.UNCLEAR, Outcome.ERROR, Outcome.RIGHT) if each in found)

    @property
    def complaints(self) -> list[str]:
        """What it was told where that was not right."""
        return [f"{each.path}: {each.said}" for each in self.answers if each.outcome is not Outcome.RIGHT]

    def silence(self, excused: Collection[Span]) -> float:
        """The longest time in seconds without a byte of any answer, without what is excused."""
        return max((gap for answer in self.answers for gap in answer.silences(excused)), default=0.0)

    def _ask(self, what: str, digests: Collection[str], *, count: bool = False) -> bytes:
        """The body where it is right, else nothing."""
        path = f"/v2/{self.image.repository}/{what}"
        began = time.monotonic()
        try:
            got = fetch(self.node, path, self._heed if count else lambda _: None)
        except (OSError, http.client.HTTPException) as error:
            outcome = Outcome.UNCLEAR if isinstance(error, TimeoutError) else Outcome.ERROR
            answer = Answer(path, outcome, (began, time.monotonic()), repr(error))
            body = b""
        else:
            answer = Answer(path, _outcome(got, digests), got.moments, _said(got))
            body = got.body if answer.outcome is Outcome.RIGHT else b""
        with self._guard:
            self.answers.append(answer)
        return body

    def _heed(self, count: int) -> None:
        with self._guard:
            self.received += count


def _outcome(got: Got, digests: Collection[str]) -> Outcome:
    if got.status == 200:
        if got.cut:
            return Outcome.ERROR
        return Outcome.RIGHT if f"sha256:{hashlib.sha256(got.body).hexdigest()}" in digests else Outcome.WRONG
    return Outcome.ERROR if got.status >= 400 and _is_explained(got.body) else Outcome.UNCLEAR


def _is_explained(body: bytes) -> bool:
    """Whether it is the distribution API's body of an error."""
    try:
        return bool(json.loads(body)["errors"][0]["code"])
    except (ValueError, LookupError, TypeError):
        return False


def _said(got: Got) -> str:
    seconds = f"after {got.seconds:.1f} s"
    if got.status != 200:
        return f"{got.status} {got.body[:300]!r} {seconds}"
    return f"{len(got.body)} bytes{', cut' if got.cut else ''} {seconds}"
