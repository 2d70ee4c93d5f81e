"""Who looks at each request whether its image may be pulled (`proxy.rules`), and after the file of the rules."""

from __future__ import annotations

import asyncio
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


class Admission:
    """The rules that are in force, as an async context manager that looks after their file."""

    def __init__(self, settings: AdmissionSettings, metrics: ProxyMetrics) -> None:
        """Raises `RulesUnusable`."""
        self._metrics = metrics
        self._file = Path(settings.file) if settings.file else None
        self._seen: tuple[int, int, int] | None = None
        self._watching: asyncio.Task[None] | None = None
        if self._file is None:
            self._rules = Rules(settings)
            return
        self._seen = file_state(self._file)
        try:
            self._rules = Rules(load(RuleBook, self._file, {}))
        except SettingsError as error:
            raise RulesUnusable(f"the admission rules: {error}") from None

    async def __aenter__(self) -> Self:
        if self._file is not None:
            self._watching = asyncio.create_task(self._watch(), name="admission rules")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    def check(self, location: Location, reference: Reference) -> Verdict:
        """The verdict on a request, which is counted, and logged where a rule denies."""
        verdict = self._rules.check(location, reference)
        self._metrics.admission.labels(verdict.rule, verdict.word).inc()
        if verdict.denied:
            log.info(
                f"admission.{verdict.word}",
                image=f"{location.registry}/{location.repository}",
                reference=reference,
                rule=verdict.rule,
            )
        return verdict

    def refresh(self) -> None:
        """Read the file again where it has changed. A file that cannot be used leaves the rules as they are."""
        assert self._file is not None
        state = file_state(self._file)
        if state == self._seen:
            return
        self._seen = state
        try:
            book = load(RuleBook, self._file, {})
        except SettingsError as error:
            log.error("admission.rules_unusable", error=str(error), kept="the rules that were read before")
            return
        self._rules = Rules(book)
        log.info("admission.rules_read", file=str(self._file), rules=len(book.rules), dry_run=book.dry_run)

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
