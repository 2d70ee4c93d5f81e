"""What registries tell of pushes: distribution's notifications, and those of Harbor.

No I/O. What is told is nothing but a name to ask for at a registry that the configuration knows: no address in it is
followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

import msgspec

from shoal.descriptor import MANIFEST_TYPES
from shoal.reference import InvalidReference, Location, Reference, Tag, parse_tag
from supernode.preheating.settings import PushSettings

_ANY_HOST = "*"
_HARBOR_PUSHES = frozenset({"PUSH_ARTIFACT", "harbor.artifact.pushed"})


class _Target(msgspec.Struct, rename="camel"):
    media_type: str = ""
    repository: str = ""
    tag: str = ""
    url: str = ""


class _Request(msgspec.Struct):
    host: str = ""


class _Event(msgspec.Struct):
    action: str = ""
    target: _Target | None = None
    request: _Request | None = None


class _Resource(msgspec.Struct):
    tag: str = ""
    resource_url: str = ""


class _Repository(msgspec.Struct):
    repo_full_name: str = ""


class _EventData(msgspec.Struct):
    resources: list[_Resource] = []
    repository: _Repository = msgspec.field(default_factory=_Repository)


class Notification(msgspec.Struct):
    """The body of a request to a webhook, whoever sends it."""

    events: list[_Event] = []
    type: str = ""
    event_data: _EventData | None = None
    data: _EventData | None = None


@dataclass(frozen=True, slots=True)
class Push:
    """An image that somebody says was pushed to `host`."""

    host: str
    repository: str
    tag: str


def pushes(notification: Notification) -> Iterator[Push]:
    """Pushes of manifests under tags; what has no tag belongs to another one that has."""
    for event in notification.events:
        target = event.target
        if event.action == "push" and target is not None and target.tag and target.media_type in MANIFEST_TYPES:
            host = event.request.host if event.request is not None else ""
            yield Push(host or _host_of(target.url), target.repository, target.tag)
    told = notification.event_data or notification.data
    if notification.type in _HARBOR_PUSHES and told is not None:
        for resource in told.resources:
            if resource.tag:
                yield Push(resource.resource_url.partition("/")[0], told.repository.repo_full_name, resource.tag)


def image_of(push: Push, settings: PushSettings) -> Reference | None:
    """The image that nodes are to pull; None where the configuration says that they are not, or it is no image."""
    registry = settings.registries.get(push.host, settings.registries.get(_ANY_HOST))
    if registry is None or not any(fnmatchcase(push.repository, pattern) for pattern in settings.repositories):
        return None
    try:
        location = Location.parse(registry, push.repository)
        return Reference(location.registry, location.repository, Tag(parse_tag(push.tag)), None)
    except InvalidReference:
        return None


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return ""
