"""Kinds of images and artifacts through a real node: each comes as it is, and each of its blobs may be asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.images import CONFIG_TYPE, LAYER_TYPE
from shoal.descriptor import MAX_MANIFEST_SIZE, OCI_INDEX, OCI_MANIFEST
from shoal.digest import Digest
from tests.world.client import get
from tests.world.images import random_bytes
from tests.world.nodes import Node
from tests.world.origin import REPOSITORY, ScriptedOrigin
from tests.world.swarm import UPSTREAM, blob_path

EMPTY = b"{}"
Json = dict[str, object]


def named(origin: ScriptedOrigin, content: bytes, media_type: str) -> Json:
    return {"mediaType": media_type, "digest": origin.put(content), "size": len(content)}


def manifest(origin: ScriptedOrigin, *layers: bytes, **more: object) -> bytes:
    entries = [named(origin, layer, LAYER_TYPE) for layer in layers]
    config = named(origin, EMPTY, CONFIG_TYPE)
    return json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": entries, **more}
    ).encode()


def index(origin: ScriptedOrigin, *children: tuple[bytes, str]) -> bytes:
    entries = [named(origin, content, media_type) for content, media_type in children]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def nested(origin: ScriptedOrigin) -> bytes:
    inner = index(origin, (manifest(origin, b"deep"), OCI_MANIFEST))
    return index(origin, (inner, OCI_INDEX), (manifest(origin, b"shallow"), OCI_MANIFEST))


def as_large_as_may_be(origin: ScriptedOrigin) -> bytes:
    room = MAX_MANIFEST_SIZE - len(manifest(origin, b"x", annotations={"": ""}))
    return manifest(origin, b"x", annotations={"": "a" * room})


KINDS: dict[str, Callable[[ScriptedOrigin], bytes]] = {
    "an index in an index": nested,
    "an artifact without layers that belongs to something": lambda origin: manifest(
        origin, subject=named(origin, manifest(origin, b"subject"), OCI_MANIFEST), artifactType="application/x"
    ),
    "a layer of no bytes": lambda origin: manifest(origin, b"", b"and one of some"),
    "127 layers": lambda origin: manifest(origin, *(f"layer {place}".encode() for place in range(127))),
    "one layer twice": lambda origin: manifest(origin, b"twice", b"twice"),
    "a layer of an unknown type": lambda origin: manifest(origin, random_bytes(300_000, "model"), kept="raw"),
    "a manifest of 4 MiB": as_large_as_may_be,
    "an empty index": lambda origin: index(origin),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_pulled_by_tag_and_by_digest_with_all_that_it_names(
    kind: str, origin: ScriptedOrigin, tmp_path: Path, stack: ExitStack
) -> None:
    content = KINDS[kind](origin)
    origin.tags[REPOSITORY, "latest"] = origin.put(content)
    node = Node(tmp_path, {UPSTREAM: origin.start(stack)})
    node.start(stack)

    def pull(reference: str, expected: bytes) -> None:
        got = get(node, f"/v2/{REPOSITORY}/manifests/{reference}")
        assert (got.status, got.brings(expected)) == (200, True)
        found = json.loads(expected)
        for blob in [*filter(None, [found.get("config")]), *found.get("layers", [])]:
            assert get(node, blob_path(blob["digest"])).brings(origin.contents[blob["digest"]])
        for child in [*filter(None, [found.get("subject")]), *found.get("manifests", [])]:
            pull(child["digest"], origin.contents[child["digest"]])

    for _ in range(2):
        pull("latest", content)
        pull(Digest.of(content), content)
    assert max(origin.requests.values()) <= 2
