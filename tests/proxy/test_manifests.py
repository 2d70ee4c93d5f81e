from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from peer.origin import OriginUnavailable
from proxy.manifests import accepted
from shoal.descriptor import (
    MANIFEST_TYPES,
    MAX_MANIFEST_SIZE,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1_TYPES,
    BlobKind,
    Descriptor,
    Manifest,
)
from shoal.digest import Digest
from shoal.reference import Location
from supernode.protocol import Resolved

if TYPE_CHECKING:
    from tests.proxy.conftest import Front, MemoryEngine

AT = Location.parse("docker.io", "library/busybox")
TAGGED = "/v2/library/busybox/manifests/latest"


def described(content: bytes, media_type: str = OCI_MANIFEST) -> Descriptor:
    return Descriptor(Digest.of(content), len(content), media_type, BlobKind.MANIFEST)


@pytest.fixture(params=["stored", "coming"])
def digest(request: pytest.FixtureRequest, engine: MemoryEngine, manifest: bytes) -> Digest:
    """The manifest in the store, or on its way."""
    return engine.store.put(manifest) if request.param == "stored" else engine.coming(manifest)


async def test_by_tag(front: Front, digest: Digest, manifest: bytes) -> None:
    front.origin.known["latest"] = described(manifest)
    answer = await front.ask(TAGGED)
    assert (answer.status, answer.body) == (200, manifest)
    assert answer.headers["Content-Type"] == OCI_MANIFEST
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["ETag"] == f'"{digest}"'
    assert "Warning" not in answer.headers


async def test_by_digest(front: Front, digest: Digest, manifest: bytes, engine: MemoryEngine) -> None:
    answer = await front.ask(f"/v2/library/busybox/manifests/{digest}", Range="bytes=0-")
    assert (answer.status, answer.body) == (200, manifest)
    assert answer.headers["Content-Type"] == OCI_MANIFEST
    assert front.origin.asked == []
    assert [(blob.digest, blob.kind) for blob in engine.opened] == [(digest, BlobKind.MANIFEST)]


async def test_the_engine_hears_what_an_image_consists_of(front: Front, digest: Digest, manifest: bytes) -> None:
    await front.ask(f"/v2/library/busybox/manifests/{digest}")
    assert front.engine.expected == [(Manifest.parse(manifest).blobs, AT)]


async def test_the_engine_hears_of_the_manifests_in_an_index(
    front: Front, engine: MemoryEngine, manifest: bytes
) -> None:
    child = described(manifest)
    entry = {"digest": child.digest, "size": child.size, "mediaType": OCI_MANIFEST}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    answer = await front.ask(f"/v2/library/busybox/manifests/{engine.coming(index)}")
    assert answer.headers["Content-Type"] == OCI_INDEX
    assert engine.expected == [((child,), AT)]


async def test_head_by_tag_begins_no_download(front: Front, manifest: bytes, engine: MemoryEngine) -> None:
    front.origin.known["latest"] = described(manifest)
    answer = await front.ask(TAGGED, "HEAD")
    assert (answer.status, answer.body, engine.opened) == (200, b"", [])
    assert answer.headers["Content-Length"] == str(len(manifest))
    assert answer.headers["Content-Type"] == OCI_MANIFEST
    assert answer.headers["Docker-Content-Digest"] == Digest.of(manifest)


async def test_head_by_digest_of_a_stored_manifest_asks_nobody(
    front: Front, engine: MemoryEngine, manifest: bytes
) -> None:
    digest = engine.store.put(manifest)
    answer = await front.ask(f"/v2/library/busybox/manifests/{digest}", "HEAD")
    assert (answer.status, answer.headers["Content-Type"]) == (200, OCI_MANIFEST)
    assert front.origin.asked == []


async def test_head_by_digest_of_an_unknown_manifest_asks_the_origin(front: Front, manifest: bytes) -> None:
    digest = Digest.of(manifest)
    front.origin.known[digest] = described(manifest)
    answer = await front.ask(f"/v2/library/busybox/manifests/{digest}", "HEAD")
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(manifest)))
    assert front.engine.opened == []


async def test_a_client_that_has_it_gets_304(front: Front, engine: MemoryEngine, manifest: bytes) -> None:
    front.origin.known["latest"] = described(manifest)
    answer = await front.ask(TAGGED, If_None_Match=f'"{Digest.of(manifest)}"')
    assert (answer.status, answer.body, engine.opened) == (304, b"", [])


async def test_what_the_cluster_knows_is_not_asked_of_the_origin(front: Front, digest: Digest, manifest: bytes) -> None:
    front.cluster.answer = Resolved(1, "fresh", digest, len(manifest), OCI_MANIFEST)
    assert (await front.ask(TAGGED)).body == manifest
    assert front.origin.asked == []


async def test_an_unreachable_origin_leaves_a_stale_answer(
    front: Front, digest: Digest, manifest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    front.origin.known["latest"] = described(manifest)
    await front.ask(TAGGED)
    front.origin.error = OriginUnavailable("down")
    monkeypatch.setattr("proxy.freshness.FreshnessTable.fresh", lambda *_: None)
    for method in ("GET", "HEAD"):
        answer = await front.ask(TAGGED, method)
        assert (answer.status, answer.headers["Warning"]) == (200, '299 - "stale: docker.io did not answer"')


async def test_an_unreachable_origin_without_a_last_answer(front: Front) -> None:
    front.origin.error = OriginUnavailable("down")
    answer = await front.ask(TAGGED)
    assert (answer.status, answer.code) == (502, "UNAVAILABLE")


async def test_a_kind_that_is_not_known_here_keeps_the_type_of_the_origin(front: Front, engine: MemoryEngine) -> None:
    content = b'{"mediaType": "application/vnd.other+json"}'
    digest = engine.coming(content)
    front.origin.known[digest] = described(content, "application/vnd.other+json")
    answer = await front.ask(f"/v2/library/busybox/manifests/{digest}")
    assert (answer.body, answer.headers["Content-Type"]) == (content, "application/vnd.other+json")
    assert engine.expected == []


async def test_a_layer_is_no_manifest(front: Front, engine: MemoryEngine) -> None:
    digest = engine.store.put(b"a layer")
    answer = await front.ask(f"/v2/library/busybox/manifests/{digest}")
    assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")
    engine.sizes[Digest.of(b"x")] = Descriptor(Digest.of(b"x"), MAX_MANIFEST_SIZE + 1)
    answer = await front.ask(f"/v2/library/busybox/manifests/{Digest.of(b'x')}")
    assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")
    assert (await front.ask(f"/v2/library/busybox/manifests/{Digest.of(b'x')}", "HEAD")).status == 404


async def test_a_manifest_that_breaks_off_is_an_error_not_a_part(
    front: Front, engine: MemoryEngine, manifest: bytes
) -> None:
    digest = engine.coming(manifest)
    engine.breaks_after, engine.break_error = 1, OriginUnavailable("gone")
    answer = await front.ask(f"/v2/library/busybox/manifests/{digest}")
    assert (answer.status, answer.code) == (502, "UNAVAILABLE")


async def test_a_length_that_head_told_wrongly_is_made_good_by_get(
    front: Front, engine: MemoryEngine, manifest: bytes
) -> None:
    digest, engine.checks_sizes = engine.coming(manifest, known=False), True
    wrong = Descriptor(digest, 1, OCI_MANIFEST, BlobKind.MANIFEST)
    front.origin.known["latest"] = wrong
    for reference in ("latest", "latest", digest):
        answer = await front.ask(f"/v2/library/busybox/manifests/{reference}")
        assert (answer.status, answer.body) == (200, manifest)
    assert [blob.size for blob in engine.opened] == [1, len(manifest), len(manifest), len(manifest)]
    assert [reference for _, reference, _ in front.origin.asked] == ["latest"]


async def test_many_who_were_told_a_wrong_length_all_get_the_manifest(
    front: Front, engine: MemoryEngine, manifest: bytes
) -> None:
    digest, engine.checks_sizes = engine.coming(manifest, known=False), True
    front.origin.known["latest"] = Descriptor(digest, 1, OCI_MANIFEST, BlobKind.MANIFEST)
    answers = await asyncio.gather(*(front.ask(TAGGED) for _ in range(5)))
    assert {answer.body for answer in answers} == {manifest}


async def test_a_size_that_an_index_named_wrongly_is_an_error(
    front: Front, engine: MemoryEngine, manifest: bytes
) -> None:
    digest, engine.checks_sizes = engine.coming(manifest, known=False), True
    engine.expect([Descriptor(digest, 1, OCI_MANIFEST, BlobKind.MANIFEST)], AT)
    answer = await front.ask(f"/v2/library/busybox/manifests/{digest}")
    assert (answer.status, answer.code) == (502, "UNAVAILABLE")
    assert f"{len(manifest)} bytes, 1 were expected".encode() in answer.body


async def test_a_media_type_that_is_no_header_is_not_sent(front: Front, engine: MemoryEngine) -> None:
    content = json.dumps({"schemaVersion": 2, "mediaType": "x/y\r\nEvil: 1", "manifests": []}).encode()
    answer = await front.ask(f"/v2/library/busybox/manifests/{engine.coming(content)}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/vnd.oci.image.index.v1+json")
    assert "Evil" not in answer.headers


@pytest.mark.parametrize(
    ("header", "status", "part"),
    [
        ("bytes=0-", 200, slice(None)),
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=99999-", 416, None),
        ("lines=1-2", 200, slice(None)),
    ],
)
async def test_ranges_of_a_manifest(
    front: Front, digest: Digest, manifest: bytes, header: str, status: int, part: slice | None
) -> None:
    front.origin.known["latest"] = described(manifest)
    answer = await front.ask(TAGGED, Range=header)
    assert answer.status == status
    if part is not None:
        assert answer.body == manifest[part]
        assert int(answer.headers["Content-Length"]) == len(answer.body)


@pytest.mark.parametrize("media_type", sorted(SCHEMA1_TYPES))
@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_schema_1_is_refused_alike_by_both_methods(front: Front, method: str, media_type: str) -> None:
    front.origin.known["latest"] = Descriptor(Digest.of(b"payload"), 300, media_type, BlobKind.MANIFEST)
    answer = await front.ask(TAGGED, method)
    assert answer.status == 404
    assert method == "HEAD" or "schema 1" in answer.body.decode()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], ""),
        (["*/*"], ""),
        ([", ".join(MANIFEST_TYPES)], ""),
        ([*MANIFEST_TYPES, "application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.5"], ""),
        ([OCI_MANIFEST], OCI_MANIFEST),
        ([f"{OCI_MANIFEST};q=0.9 , A/B"], f"a/b, {OCI_MANIFEST}"),
        (["a\x7fb"], ""),
    ],
)
def test_what_a_client_takes(headers: list[str], expected: str) -> None:
    assert accepted(headers) == expected


async def test_a_client_that_takes_less_has_an_answer_of_its_own(front: Front, digest: Digest, manifest: bytes) -> None:
    front.origin.known["latest"] = described(manifest)
    await front.ask(TAGGED)
    await front.ask(TAGGED, Accept=OCI_MANIFEST)
    assert [accept for _, accept in front.origin.identities] == ["", OCI_MANIFEST]


async def test_a_manifest_that_is_stored_is_the_origins_to_give_in_other_repositories(
    front: Front, engine: MemoryEngine, manifest: bytes
) -> None:
    digest = engine.store.put(manifest)
    engine.unnamed.add(digest)
    answer = await front.ask(f"/v2/library/busybox/manifests/{digest}")
    assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")
    front.origin.known[digest] = described(manifest)
    answer = await front.ask(f"/v2/library/a/manifests/{digest}")
    assert (answer.status, answer.body) == (200, manifest)
