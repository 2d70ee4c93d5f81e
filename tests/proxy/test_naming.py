from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import RequestError
from proxy.naming import (
    BlobTarget,
    CatalogTarget,
    ManifestTarget,
    Namer,
    ReferrersTarget,
    TagsTarget,
    Target,
    is_public_name,
)
from shoal.digest import Digest
from shoal.reference import Location, Registry, Repository, Tag

NAMER = Namer(
    {"docker.io", "quay.io", "127.0.0.1:5000", "localhost"},
    Registry("docker.io"),
    {"reg-test": Registry("127.0.0.1:5000")},
)
DIGEST = Digest.of(b"x")
PART = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)?", fullmatch=True)
NAME = st.lists(PART, min_size=1, max_size=4).map("/".join)


def at(registry: str, repository: str) -> Location:
    return Location(Registry(registry), Repository(repository))


@pytest.mark.parametrize(
    ("path", "ns", "expected"),
    [
        (
            "/v2/library/busybox/manifests/latest",
            None,
            ManifestTarget(at("docker.io", "library/busybox"), Tag("latest")),
        ),
        ("/v2/busybox/manifests/latest", None, ManifestTarget(at("docker.io", "library/busybox"), Tag("latest"))),
        (f"/v2/a/b/manifests/{DIGEST}", "quay.io", ManifestTarget(at("quay.io", "a/b"), DIGEST)),
        (f"/v2/docker.io/library/busybox/blobs/{DIGEST}", None, BlobTarget(at("docker.io", "library/busybox"), DIGEST)),
        (f"/v2/quay.io/a/b/blobs/{DIGEST}", None, BlobTarget(at("quay.io", "a/b"), DIGEST)),
        ("/v2/127.0.0.1:5000/a/tags/list", None, TagsTarget(at("127.0.0.1:5000", "a"))),
        ("/v2/localhost/a/tags/list", None, TagsTarget(at("localhost", "a"))),
        (f"/v2/a/b/referrers/{DIGEST}", "127.0.0.1:5000", ReferrersTarget(at("127.0.0.1:5000", "a/b"), DIGEST)),
        ("/v2/quay.io/a/manifests/1", "docker.io", ManifestTarget(at("docker.io", "quay.io/a"), Tag("1"))),
        ("/v2/quay.io/a/manifests/1", "quay.io", ManifestTarget(at("quay.io", "a"), Tag("1"))),
        ("/v2/reg-test/a/manifests/1", None, ManifestTarget(at("127.0.0.1:5000", "a"), Tag("1"))),
        ("/v2/reg-test/a/manifests/1", "127.0.0.1:5000", ManifestTarget(at("127.0.0.1:5000", "a"), Tag("1"))),
        ("/v2/reg-test/manifests/1", None, ManifestTarget(at("docker.io", "library/reg-test"), Tag("1"))),
        ("/v2/a/b/manifests/1", "QUAY.io:443", ManifestTarget(at("quay.io", "a/b"), Tag("1"))),
        ("/v2/a/b/manifests/1", "index.docker.io", ManifestTarget(at("docker.io", "a/b"), Tag("1"))),
        ("/v2/Quay.io:443/a/manifests/1", None, ManifestTarget(at("quay.io", "a"), Tag("1"))),
        ("/v2/_catalog", None, CatalogTarget(Registry("docker.io"))),
        ("/v2/_catalog", "quay.io", CatalogTarget(Registry("quay.io"))),
        ("/v2/reg-test/_catalog", None, CatalogTarget(Registry("127.0.0.1:5000"))),
        ("/v2/quay.io/manifests/1", None, ManifestTarget(at("docker.io", "library/quay.io"), Tag("1"))),
        (
            "/v2/manifests/manifests/manifests",
            None,
            ManifestTarget(at("docker.io", "library/manifests"), Tag("manifests")),
        ),
        (f"/v2/a/b/blobs/{DIGEST.replace(':', '%3A')}", None, BlobTarget(at("docker.io", "a/b"), DIGEST)),
        ("/v2/other.example/a/manifests/1", None, ManifestTarget(at("docker.io", "other.example/a"), Tag("1"))),
    ],
)
def test_requests_of_real_clients(path: str, ns: str | None, expected: Target) -> None:
    assert NAMER.parse(path, ns) == expected


@pytest.mark.parametrize(
    ("path", "ns", "status", "code"),
    [
        ("/v2/../etc/manifests/1", None, 400, "NAME_INVALID"),
        ("/v2/a/%2e%2e/b/manifests/1", None, 400, "NAME_INVALID"),
        ("/v2/a%2F..%2Fb/manifests/1", None, 400, "NAME_INVALID"),
        ("/v2/a//b/manifests/1", None, 400, "NAME_INVALID"),
        ("/v2//manifests/1", None, 400, "NAME_INVALID"),
        ("/v2/a%00b/manifests/1", None, 400, "NAME_INVALID"),
        ("/v2/a%ffb/manifests/1", None, 400, "NAME_INVALID"),
        ("/v2/UPPER/manifests/1", None, 400, "NAME_INVALID"),
        ("/v2/a/manifests/1", "not a host", 400, "NAME_INVALID"),
        ("/v2/a/manifests/1", "", 400, "NAME_INVALID"),
        ("/v2/a/manifests/.hidden", None, 400, "MANIFEST_INVALID"),
        ("/v2/a/manifests/sha256:short", None, 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/latest", None, 400, "DIGEST_INVALID"),
        (f"/v2/a/blobs/md5:{'0' * 32}", None, 400, "DIGEST_INVALID"),
        ("/v2/a/referrers/x", None, 400, "DIGEST_INVALID"),
        ("/v2/a/manifests/1", "evil.example", 404, "NAME_UNKNOWN"),
        ("/v2/evil.example:80/a/manifests/1", None, 404, "NAME_UNKNOWN"),
        ("/v2/_catalog", "evil.example", 404, "NAME_UNKNOWN"),
        ("/v2/a/blobs/uploads/1", None, 404, "UNSUPPORTED"),
        ("/v2/a/tags/other", None, 404, "UNSUPPORTED"),
    ],
)
def test_requests_that_are_wrong(path: str, ns: str | None, status: int, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        NAMER.parse(path, ns)
    assert (caught.value.status, caught.value.code) == (status, code)


@given(NAME, st.sampled_from(["quay.io", "127.0.0.1:5000"]))
def test_ns_and_first_segment_say_the_same(name: str, registry: str) -> None:
    by_ns = NAMER.parse(f"/v2/{name}/manifests/1", registry)
    by_path = NAMER.parse(f"/v2/{registry}/{name}/manifests/1", None)
    assert by_ns == by_path == ManifestTarget(at(registry, name), Tag("1"))


@given(st.text(max_size=80), st.none() | st.text(max_size=30))
def test_any_path_is_a_target_at_a_configured_upstream_or_an_error(path: str, ns: str | None) -> None:
    try:
        target = NAMER.parse(f"/v2/{path}", ns)
    except RequestError:
        return
    assert target.registry in NAMER.upstreams
    if not isinstance(target, CatalogTarget):
        assert ".." not in target.location.repository


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("ghcr.io", True),
        ("registry.example.co.uk", True),
        ("ghcr.io:443", True),
        ("ghcr.io:5000", False),
        ("localhost", False),
        ("registry", False),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("[::1]", False),
        ("printer.local", False),
        ("api.cluster.internal", False),
    ],
)
def test_only_public_names_are_stood_for_unasked(name: str, public: bool) -> None:
    assert is_public_name(Registry(name)) == public
    anyone = Namer({"docker.io"}, Registry("docker.io"), takes_any=True)
    if public:
        assert anyone.parse("/v2/a/manifests/1", name).registry == name.removesuffix(":443")
    else:
        with pytest.raises(RequestError):
            anyone.parse("/v2/a/manifests/1", name)
