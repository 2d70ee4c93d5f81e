"""Preheating's part of the supernode's configuration."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated

import msgspec
from cronsim import CronSim, CronSimError
from msgspec import Meta

from shoal.fields import Rate
from shoal.limits import check_limit
from shoal.platforms import ALL_PLATFORMS, parse_platform
from shoal.reference import InvalidReference, Reference, parse_registry
from supernode.preheating.order import MAX_IMAGES, PreheatOrder
from supernode.preheating.selection import Selection
from supernode.protocol import MAX_PLATFORMS

MAX_KEPT = 100
_MAX_PATTERN = 128


class Manner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how images are preheated."""

    nodes: str = "all"
    """The nodes that preheat: all, a number, a share such as 20%, label=value, name=NODE, or several of these with
    commas."""

    platforms: Annotated[list[str], Meta(max_length=MAX_PLATFORMS)] = []
    """The platforms of images for several, such as linux/arm64, or all. Where there are none, each node's own."""

    pin: bool = False
    """Whether nodes keep the images whatever else they need room for."""

    rate: Rate = None
    """How much each node takes at most for all that it preheats; else as much as its own limit lets it."""

    concurrency: Annotated[int, Meta(ge=1, le=100_000)] = 100
    """How many nodes preheat at a time."""

    referrers: bool = True
    """Whether signatures, SBOMs and whatever else refers to an image come with it."""

    def __post_init__(self) -> None:
        Selection.parse(self.nodes)
        for platform in self.platforms:
            if platform != ALL_PLATFORMS:
                parse_platform(platform)
        check_limit("rate", self.rate)

    def order(self, images: list[str]) -> PreheatOrder:
        """An order of these images in this manner."""
        return PreheatOrder(
            images=images,
            nodes=self.nodes,
            platforms=self.platforms,
            pin=self.pin,
            rate=int(self.rate or 0),
            concurrency=self.concurrency,
            referrers=self.referrers,
        )


class ScheduleSettings(Manner, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Images that are preheated again and again."""

    cron: str
    """When, as cron writes it, in UTC: "0 3 * * *" is each night at three."""

    images: Annotated[list[str], Meta(min_length=1, max_length=100)]
    """References; in a tag, *, ? and [...] stand for what matches, as in docker.io/library/alpine:3.*"""

    keep: Annotated[int, Meta(ge=1, le=MAX_KEPT)] = 3
    """How many of the tags that match a pattern are preheated, the newest ones by their versions. What was pinned and
    is none of these any more is let go."""

    ends: str = ""
    """The last day of the schedule, such as 2027-01-31. After it nothing is preheated, and its pins are let go."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            CronSim(self.cron, datetime.now(UTC))
        except CronSimError as error:
            raise ValueError(f"`cron` {self.cron!r} is no cron expression: {error}") from None
        most = sum(self.keep if split_pattern(image)[1] else 1 for image in self.images)
        if most > MAX_IMAGES:
            raise ValueError(f"`images` and `keep` name up to {most} images (allowed: {MAX_IMAGES})")
        try:
            self.last_day  # noqa: B018 - whether it can be read
        except ValueError:
            raise ValueError(f"`ends` {self.ends!r} is no day (allowed: 2027-01-31, for example)") from None

    @property
    def last_day(self) -> date | None:
        """When it ends."""
        return date.fromisoformat(self.ends) if self.ends else None


class PushSettings(Manner, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done when a registry tells that an image was pushed to it."""

    registries: dict[str, str] = {}
    """By the host that a notification names, or * for any other: the registry's name in images that nodes pull. Nothing
    else is preheated."""

    repositories: list[str] = msgspec.field(default_factory=lambda: ["*"])
    """The repositories of which images are preheated, with * and ?."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for registry in self.registries.values():
            try:
                parse_registry(registry)
            except InvalidReference as error:
                raise ValueError(f"`registries`: {error}") from None


class PreheatSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How images come to nodes before a client asks for them."""

    tokens_file: str = ""
    """A file of who may preheat besides the operator, and nothing else: a line NAME TOKEN each. It is read again when
    it changes."""

    schedules: dict[str, ScheduleSettings] = {}
    """What is preheated again and again, by names of your own."""

    pushes: PushSettings = PushSettings()

    def __post_init__(self) -> None:
        if any(not name or not name.isprintable() or " " in name or len(name) > 64 for name in self.schedules):
            raise ValueError("`schedules`: a name has no blanks, and 64 characters at the most")


def split_pattern(image: str) -> tuple[Reference, str]:
    """The repository of an image and the pattern of its tag, empty where it is none; raises `ValueError`."""
    head, colon, tag = image.rpartition(":")
    if colon and "/" not in tag and any(mark in tag for mark in "*?["):
        if len(tag) > _MAX_PATTERN:
            raise ValueError(f"a pattern of more than {_MAX_PATTERN} characters: {tag[:_MAX_PATTERN]!r}")
        return Reference.parse(head), tag
    return Reference.parse(image), ""
