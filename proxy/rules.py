"""Which images may be pulled through this node: rules by registry, repository and tag.

Rules are looked at in their order, and the first that matches decides; where none does, `default`. A rule names images
by patterns of `registry/repository` (`docker.io/library/*`; `*` stands for any characters, slashes too) and may name
tags. A rule with tags is about manifests that are asked for by such a tag and about nothing else: a digest does not say
by which tag a client has come to it, so that what lies behind a denied tag can be had by its digest unless another rule
denies its repository. Who allows single tags of a repository and denies its other ones writes three rules: these tags
allowed, the tags `*` denied, and then the repository allowed, for what is asked for by digest.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shoal.digest import Digest
from shoal.reference import DOCKER_HUB, InvalidReference, Location, Repository, Tag, parse_registry, qualify

DEFAULT_RULE = "default"
"""What decides where no rule matches, in logs and metrics."""

Decision = Literal["allow", "deny"]
Reference = Tag | Digest | None

_Name = Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{1,64}$", description="letters, digits, `_`, `.` and `-`")]
_MAX_PATTERN = 1024
"""Characters: no image has a name so long, and to translate a pattern takes quadratic time."""
_GLOB = re.compile(r"[*?\[]")


class RuleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of some images."""

    name: _Name
    """What clients, metrics and logs are told of the rule that decided."""

    verdict: Decision
    """What becomes of what the rule matches."""

    images: list[str] = msgspec.field(default_factory=lambda: ["*"])
    """Patterns of `registry/repository`."""

    tags: list[str] = []
    """Patterns of tags. Empty: everything of the images, by tag or digest."""

    def __post_init__(self) -> None:
        for pattern in (*self.images, *self.tags):
            if len(pattern) > _MAX_PATTERN:
                raise ValueError(f"a pattern of {len(pattern)} characters (allowed: {_MAX_PATTERN})")
        for pattern in self.images:
            if "/" not in pattern and "*" not in pattern:
                raise ValueError(
                    f"`images` {pattern!r} matches nothing (allowed: registry/repository, such as quay.io/*)"
                )
        if not self.images:
            raise ValueError("`images` is empty (allowed: patterns such as quay.io/*)")


class RuleBook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules in their order."""

    dry_run: bool = False
    """Whether what is denied is only told of and pulled all the same."""

    default: Decision = "allow"
    """What becomes of what no rule matches."""

    rules: list[RuleSettings] = []
    """The rules; the first that matches decides."""

    def __post_init__(self) -> None:
        names = [DEFAULT_RULE, *(rule.name for rule in self.rules)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"`rules` has the name {name!r} twice")


class AdmissionSettings(RuleBook, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules, here or in a file of their own."""

    file: str = ""
    """A TOML file with `dry_run`, `default` and `rules`, which is read again when it changes."""

    def __post_init__(self) -> None:
        RuleBook.__post_init__(self)
        if self.file and (self.rules or self.dry_run or self.default != "allow"):
            raise ValueError("`file` and rules beside it exclude each other")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one request, and which rule says so."""

    rule: str
    denied: bool
    dry_run: bool

    @property
    def word(self) -> str:
        """In logs and metrics."""
        if not self.denied:
            return "allow"
        return "would_deny" if self.dry_run else "deny"


class Rules:
    """Decides; no I/O."""

    def __init__(self, book: RuleBook) -> None:
        self._book = book
        self._rules = [(rule, _compiled(map(_canonical, rule.images)), _compiled(rule.tags)) for rule in book.rules]

    def check(self, location: Location, reference: Reference) -> Verdict:
        """`reference`: of a manifest or a blob; None for lists."""
        image = f"{location.registry}/{location.repository}"
        tag = reference if reference is not None and not isinstance(reference, Digest) else None
        for rule, images, tags in self._rules:
            if images.fullmatch(image) and (not rule.tags or (tag is not None and tags.fullmatch(tag))):
                return self._verdict(rule.name, rule.verdict)
        return self._verdict(DEFAULT_RULE, self._book.default)

    def _verdict(self, rule: str, decision: Decision) -> Verdict:
        return Verdict(rule, decision == "deny", self._book.dry_run)


def _compiled(patterns: Sequence[str] | map[str]) -> re.Pattern[str]:
    """Of no patterns: one that matches nothing."""
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns) or r"(?!)")


def _canonical(pattern: str) -> str:
    """With the registry and the repository as locations have them: `index.docker.io/busybox` is
    `docker.io/library/busybox`."""
    head, slash, rest = pattern.lower().partition("/")
    if not slash or _GLOB.search(head):
        return pattern.lower()
    try:
        registry = parse_registry(head)
    except InvalidReference:
        return pattern.lower()
    if registry == DOCKER_HUB and not _GLOB.search(rest):
        rest = qualify(registry, Repository(rest))
    return f"{registry}/{rest}"
