"""Digests, references, descriptors, ranges and units: what parses, what prints back, what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.descriptor import MAX_MANIFEST_SIZE, OCI_MANIFEST, InvalidManifest, Manifest, parse_media_type
from shoal.digest import Digest, InvalidDigest
from shoal.reference import InvalidReference, Location, Reference, parse_registry, parse_repository
from shoal.units import format_share, parse_duration, parse_rate, parse_size

HEX = 64 * "a"


@given(st.binary())
def test_a_digest_is_that_of_its_content(content: bytes) -> None:
    digest = Digest.of(content)
    assert digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    hasher = digest.hasher()
    hasher.update(content)
    assert digest.matches(hasher)
    hasher.update(b"x")
    assert not digest.matches(hasher)


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", f"sha256:{HEX[1:]}", f"sha256:{HEX}a", f"SHA256:{HEX}", f"sha256:{HEX.upper()}", f"md5:{HEX}"],
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidDigest):
        Digest(text)


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    for parse, error in ((Digest, InvalidDigest), (Reference.parse, InvalidReference)):
        try:
            parse(text)
        except error:
            continue


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("docker.io/busybox:1", "docker.io/library/busybox:1"),
        ("registry-1.docker.io/a/b", "docker.io/a/b:latest"),
        ("quay.io/a/b:1", "quay.io/a/b:1"),
        ("localhost/a", "localhost/a:latest"),
        ("host:5000/a/b/c", "host:5000/a/b/c:latest"),
        ("host:443/a/b", "host:443/a/b:latest"),
        (f"a/b@sha256:{HEX}", f"docker.io/a/b@sha256:{HEX}"),
        (f"a/b:1@sha256:{HEX}", f"docker.io/a/b:1@sha256:{HEX}"),
    ],
)
def test_references_are_written_out_in_full(text: str, full: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == full
    assert Reference.parse(full) == reference


@pytest.mark.parametrize("text", ["", "UPPER", "a:", "a/../b", "a//b", "-a", f"a@sha256:{HEX[1:]}", "a:b:c", "a b"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        Reference.parse(text)


def test_a_location_knows_docker_hubs_short_names() -> None:
    assert Location.parse("index.docker.io", "busybox") == Location.parse("docker.io", "library/busybox")
    assert Location.parse("quay.io", "busybox").repository == "busybox"
    for parse, text in ((parse_registry, "a b"), (parse_repository, "a" * 256)):
        with pytest.raises(InvalidReference):
            parse(text)


def manifest(**fields: object) -> bytes:
    return json.dumps({"schemaVersion": 2, **fields}).encode()


ENTRY = {"digest": f"sha256:{HEX}", "size": 1, "mediaType": "x/y"}


def test_a_manifest_names_its_configuration_and_then_its_layers() -> None:
    other = {**ENTRY, "digest": f"sha256:{64 * 'b'}"}
    parsed = Manifest.parse(manifest(config=ENTRY, layers=[other, ENTRY]))
    assert [blob.digest[7] for blob in parsed.blobs] == ["a", "b", "a"]


def test_a_layer_that_lies_elsewhere_is_left_out() -> None:
    foreign = {**ENTRY, "urls": ["https://elsewhere.example/layer"]}
    assert len(Manifest.parse(manifest(config=ENTRY, layers=[foreign])).blobs) == 1


def test_an_index_names_its_children_with_their_platforms() -> None:
    child = {**ENTRY, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}}
    ((descriptor, platform),) = Manifest.parse(manifest(manifests=[child])).children
    assert (descriptor.size, str(platform and platform.variant)) == (1, "v8")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        manifest(config={**ENTRY, "size": -1}),
        manifest(config={**ENTRY, "size": "1"}),
        manifest(config={**ENTRY, "digest": "sha256:x"}),
        manifest(manifests=[ENTRY] * 5000),
        bytes(MAX_MANIFEST_SIZE + 1),
    ],
    ids=lambda content: repr(content[:20]),
)
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidManifest):
        Manifest.parse(content)


@pytest.mark.parametrize("size", ["-1", "9223372036854775808", "9" * 3000])
def test_a_size_that_is_no_int64_is_refused(size: str) -> None:
    with pytest.raises(InvalidManifest):
        Manifest.parse(f'{{"config":{{"digest":"sha256:{HEX}","size":{size}}}}}'.encode())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("application/json; charset=utf-8", "application/json"),
        (" text/plain ", "text/plain"),
        (OCI_MANIFEST, OCI_MANIFEST),
        ("", ""),
        ("json", ""),
        ("a/b\r\nX: y", ""),
        ("text/\udcff", ""),
        ("a/" + "b" * 128, ""),
    ],
)
def test_what_is_no_media_type_is_none(text: str, found: str) -> None:
    assert parse_media_type(text) == found
    content = json.dumps({"mediaType": text, "config": {"digest": f"sha256:{HEX}", "size": 1}})
    with contextlib.suppress(InvalidManifest):  # a text that JSON cannot hold
        assert Manifest.parse(content.encode()).media_type == (found or OCI_MANIFEST)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_manifest_parser(content: bytes) -> None:
    try:
        Manifest.parse(content)
    except InvalidManifest:
        return


@pytest.mark.parametrize(("share", "shown"), [(0.0, "0%"), (2 / 3, "66%"), (0.9999, "99%"), (1.0, "100%")])
def test_only_what_is_whole_is_called_100_percent(share: float, shown: str) -> None:
    assert format_share(share) == shown


@pytest.mark.parametrize(
    ("text", "value"), [("100", 100), ("1.5 GB", 1_500_000_000), ("256MiB", 256 << 20), ("2 kib", 2048), ("0", 0)]
)
def test_sizes(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize(("text", "value"), [("8Mbit/s", 1e6), ("1 MiB/s", float(1 << 20)), ("2GB/s", 2e9)])
def test_rates(text: str, value: float) -> None:
    assert parse_rate(text) == value


@pytest.mark.parametrize(("text", "value"), [("500ms", 0.5), ("30", 30.0), ("1.5h", 5400.0), ("7d", 604800.0)])
def test_durations(text: str, value: float) -> None:
    assert parse_duration(text) == pytest.approx(value)


@pytest.mark.parametrize("parse", [parse_size, parse_rate, parse_duration])
@pytest.mark.parametrize("text", ["", "x", "1 parsec", "-1", "1e9", "nan", "9" * 40])
def test_what_is_no_quantity_is_refused(parse: type, text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        parse(text)


_FIRST_TOGETHER = """
import sys, threading
from shoal.descriptor import Manifest
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(16)
def parse():
    barrier.wait()
    Manifest.parse(sys.argv[1].encode())
threads = [threading.Thread(target=parse) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_may_be_the_first_to_parse_a_manifest_together() -> None:
    """Processes that did so crashed in three of four cases, and so did the swarm bench once in a hundred runs."""
    blob = {"mediaType": "application/octet-stream", "digest": f"sha256:{HEX}", "size": 10}
    content = json.dumps({"schemaVersion": 2, "config": blob, "layers": [blob]})
    for _ in range(5):
        assert subprocess.run([sys.executable, "-c", _FIRST_TOGETHER, content], check=False).returncode == 0
