"""What registries tell of pushes, and what of it is preheated."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.reference import Location
from supernode.preheating.inbox import Inbox
from supernode.preheating.pushes import Notification, Push, image_of, pushes
from supernode.preheating.settings import PushSettings
from tests.supernode.preheating.conftest import World

OCI = "application/vnd.oci.image.manifest.v1+json"
DISTRIBUTION = {
    "events": [
        {
            "id": "1",
            "action": "push",
            "target": {
                "mediaType": OCI,
                "digest": "sha256:" + "a" * 64,
                "repository": "team/app",
                "url": "http://registry:5000/v2/team/app/manifests/sha256:aa",
                "tag": "1.0",
            },
            "request": {"host": "registry:5000", "method": "PUT"},
            "actor": {"name": "ci"},
        },
        {"action": "push", "target": {"mediaType": "application/octet-stream", "repository": "team/app", "tag": "x"}},
        {"action": "push", "target": {"mediaType": OCI, "repository": "team/app"}, "request": {"host": "r"}},
        {"action": "pull", "target": {"mediaType": OCI, "repository": "team/app", "tag": "1.0"}},
    ]
}
KRAKEN = {
    "events": [
        {
            "id": "x",
            "timestamp": "2026-01-01T00:00:00Z",
            "action": "push",
            "target": {
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "repository": "library/busybox",
                "url": "https://harbor.example/v2/library/busybox/manifests/1.36",
                "tag": "1.36",
                "digest": "sha256:" + "b" * 64,
            },
        }
    ]
}
_DATA = {
    "resources": [
        {"digest": "sha256:" + "c" * 64, "tag": "latest", "resource_url": "harbor.example/library/debian:latest"},
        {"digest": "sha256:" + "d" * 64, "resource_url": "harbor.example/library/debian@sha256:dd"},
    ],
    "repository": {"name": "debian", "namespace": "library", "repo_full_name": "library/debian"},
}
HARBOR = {"type": "PUSH_ARTIFACT", "occur_at": 1, "operator": "admin", "event_data": _DATA}
HARBOR_CLOUDEVENT = {"specversion": "1.0", "type": "harbor.artifact.pushed", "data": _DATA}


def read(body: object) -> list[Push]:
    return list(pushes(msgspec.json.decode(json.dumps(body), type=Notification)))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (DISTRIBUTION, Push("registry:5000", "team/app", "1.0")),
        (KRAKEN, Push("harbor.example", "library/busybox", "1.36")),
        (HARBOR, Push("harbor.example", "library/debian", "latest")),
        (HARBOR_CLOUDEVENT, Push("harbor.example", "library/debian", "latest")),
    ],
    ids=["distribution", "kraken", "harbor", "cloudevent"],
)
def test_a_push_of_a_tag_is_read(body: object, told: Push) -> None:
    assert read(body) == [told]


@pytest.mark.parametrize("body", [{}, {"events": []}, {**HARBOR, "type": "PULL_ARTIFACT"}, {"type": "PUSH_ARTIFACT"}])
def test_what_tells_of_no_push_is_nothing(body: object) -> None:
    assert read(body) == []


SETTINGS = PushSettings(registries={"registry:5000": "registry.example:5000"}, repositories=["team/*"])


@pytest.mark.parametrize(
    ("push", "image"),
    [
        (Push("registry:5000", "team/app", "1.0"), "registry.example:5000/team/app:1.0"),
        (Push("other:5000", "team/app", "1.0"), None),
        (Push("registry:5000", "private/app", "1.0"), None),
        (Push("registry:5000", "team/../x", "1.0"), None),
        (Push("registry:5000", "team/app", "1.0 "), None),
        (Push("registry:5000", "team/app", "a" * 129), None),
    ],
)
def test_the_configuration_says_which_registry_is_meant(push: Push, image: str | None) -> None:
    found = image_of(push, SETTINGS)
    assert (None if found is None else str(found)) == image


def test_any_other_host_may_stand_for_a_registry() -> None:
    settings = PushSettings(registries={"*": "docker.io"})
    assert str(image_of(Push("", "library/alpine", "3"), settings)) == "docker.io/library/alpine:3"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["events", "target", "action", "type", "event_data", "url", "tag"]), inner)
    ),
    max_leaves=10,
)


@given(_JSON)
def test_no_body_is_more_than_refused(body: object) -> None:
    try:
        told = read(body)
    except msgspec.ValidationError:
        return
    assert all(image_of(push, SETTINGS) is None or push.host == "registry:5000" for push in told)


async def test_many_pushes_at_once_are_several_preheats(world: World) -> None:
    target = {"mediaType": OCI, "repository": "team/app"}
    events = [{"action": "push", "target": {**target, "tag": f"t{number}"}} for number in range(1500)]
    told = msgspec.convert({"events": events}, type=Notification)
    async with world.board() as board, Inbox(PushSettings(registries={"*": "r.test"}), board) as inbox:
        world.join("a")
        assert inbox.take(told) == {"accepted": 1500, "ignored": 0}
        async with asyncio.timeout(10):
            while len(board.jobs) < 2:  # noqa: ASYNC110 - a board tells nobody of what begins
                await asyncio.sleep(0.01)
        assert set(world.refreshed) == {Location.parse("r.test", "team/app")}
        assert [len(job.record.order.images) for job in board.jobs.values()] == [1000, 500]
