"""Who looks at each request whether its image may be pulled (`proxy.rules`), and after the file of the rules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from proxy.errors import AdmissionDenied
from proxy.metrics import ProxyMetrics
from proxy.naming import BlobTarget, CatalogTarget, ManifestTarget, ReferrersTarget, TagsTarget, Target
from proxy.rules import AdmissionSettings, Reference, RuleBook, Rules, Verdict
from shoal.digest import Digest
from shoal.files import file_state
from shoal.reference import Location
from shoal.settings import SettingsError, load

log = structlog.get_logger()

POLL_SECONDS = 2.0
"""How often the file of rules is looked at."""


class RulesUnusable(Exception):
    """The file of rules cannot be read when the proxy starts."""


@dataclass(slots=True)
class _Sources:
    """The rules, and the file that they were read from, if any, as it was then."""

    rules: Rules
    file: Path | None = None
    seen: tuple[int, int, int] | None = None


def _read(settings: AdmissionSettings) -> _Sources:
    """Raises `RulesUnusable`."""
    if not settings.file:
        return _Sources(Rules(settings))
    file = Path(settings.file)
    seen = file_state(file)
    try:
        return _Sources(Rules(load(RuleBook, file, {})), file, seen)
    except SettingsError as error:
        raise RulesUnusable(f"the admission rules: {error}") from None


class Admission:
    """The rules that are in force, as an async context manager that looks after their file."""

    def __init__(self, settings: AdmissionSettings, metrics: ProxyMetrics) -> None:
        """Raises `RulesUnusable`."""
        self._metrics = metrics
        self._watching: asyncio.Task[None] | None = None
        self._sources = _read(settings)

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch(), name="admission rules")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    def check(self, location: Location, reference: Reference) -> Verdict:
        """The verdict on a request, which is counted, and logged where a rule denies."""
        verdict = self._sources.rules.check(location, reference)
        self._metrics.admission.labels(verdict.rule, verdict.word).inc()
        if verdict.denied:
            log.info(
                f"admission.{verdict.word}",
                image=f"{location.registry}/{location.repository}",
                reference=reference,
                rule=verdict.rule,
            )
        return verdict

    def prepare(self, settings: AdmissionSettings) -> Callable[[], None]:
        """Read other rules, which are in force when what is returned is called. Raises `RulesUnusable`."""
        sources = _read(settings)

        def take_over() -> None:
            self._sources = sources

        return take_over

    def refresh(self) -> None:
        """Read the file again where it has changed. A file that cannot be used leaves the rules as they are."""
        before = self._sources
        if before.file is None or file_state(before.file) == before.seen:
            return
        before.seen = file_state(before.file)
        try:
            book = load(RuleBook, before.file, {})
        except SettingsError as error:
            log.error("admission.rules_unusable", error=str(error), kept="the rules that were read before")
            return
        before.rules = Rules(book)
        log.info("admission.rules_read", file=str(before.file), rules=len(book.rules), dry_run=book.dry_run)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            self.refresh()


def asked_for(target: Target) -> tuple[Location, Reference] | None:
    """What rules are about in a request; None for a registry's list of repositories."""
    match target:
        case ManifestTarget():
            return target.location, target.reference
        case BlobTarget() | ReferrersTarget():
            return target.location, target.digest
        case TagsTarget():
            return target.location, None
        case CatalogTarget():
            return None


def enforce(verdict: Verdict, location: Location, reference: Reference) -> None:
    """Raises `AdmissionDenied` that names the rule."""
    if verdict.denied and not verdict.dry_run:
        image = f"{location.registry}/{location.repository}"
        if reference is not None:
            image += f"@{reference}" if isinstance(reference, Digest) else f":{reference}"
        raise AdmissionDenied(f"the rule {verdict.rule!r} of this mirror denies {image}")
