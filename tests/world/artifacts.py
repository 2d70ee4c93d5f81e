"""Artifacts that name an image as their subject, pushed without a client: those of Debian do not know such."""

from __future__ import annotations

import json
import urllib.request
from urllib.parse import urljoin

from shoal.descriptor import OCI_INDEX, OCI_MANIFEST
from shoal.digest import Digest

ARTIFACT_TYPE = "application/vnd.shoal.test"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


def descriptor(content: bytes, media_type: str) -> dict[str, object]:
    """What names `content` in a manifest."""
    return {"mediaType": media_type, "digest": Digest.of(content), "size": len(content)}


def push_artifact(url: str, repository: str, tag: str, content: bytes, subject: dict[str, object]) -> bytes:
    """Push an artifact of one layer that belongs to `subject`; returns its manifest."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": push_blob(url, repository, b"{}", _EMPTY_TYPE),
        "layers": [push_blob(url, repository, content, ARTIFACT_TYPE)],
        "subject": subject,
    }
    return push_manifest(url, repository, tag, json.dumps(manifest).encode(), OCI_MANIFEST)


def push_fallback_tag(url: str, repository: str, subject: str, referrers: list[bytes]) -> None:
    """What clients push where a registry knows no referrers: an index under a tag made of the subject's digest."""
    entries = [{**descriptor(each, OCI_MANIFEST), "artifactType": ARTIFACT_TYPE} for each in referrers]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    push_manifest(url, repository, subject.replace(":", "-"), json.dumps(index).encode(), OCI_INDEX)


def push_blob(url: str, repository: str, content: bytes, media_type: str) -> dict[str, object]:
    """Push a blob; returns its descriptor."""
    named = descriptor(content, media_type)
    begin = urllib.request.Request(f"{url}/v2/{repository}/blobs/uploads/", method="POST")
    with urllib.request.urlopen(begin) as answer:
        place = urljoin(url, answer.headers["Location"])
    separator = "&" if "?" in place else "?"
    _put(f"{place}{separator}digest={named['digest']}", content, "application/octet-stream")
    return named


def push_manifest(url: str, repository: str, tag: str, content: bytes, media_type: str) -> bytes:
    """Push a manifest under a tag; returns it."""
    _put(f"{url}/v2/{repository}/manifests/{tag}", content, media_type)
    return content


def _put(url: str, content: bytes, media_type: str) -> None:
    put = urllib.request.Request(url, data=content, method="PUT", headers={"Content-Type": media_type})
    with urllib.request.urlopen(put) as answer:
        assert answer.status == 201
