"""Which of an index's manifests a platform means."""

from __future__ import annotations

import pytest

from shoal.descriptor import Descriptor, Manifest, Platform
from shoal.digest import Digest
from shoal.platforms import manifest_for, parse_platform


def index(*platforms: str) -> Manifest:
    """With these platforms, of which each manifest is named by its digest."""
    children = tuple((Descriptor(Digest.of(each.encode()), 1), Platform(*each.split("/"))) for each in platforms)
    return Manifest("", children=children)


@pytest.mark.parametrize(
    ("wanted", "offered", "meant"),
    [
        ("linux/arm64/v8", ["linux/amd64", "linux/arm64"], "linux/arm64"),
        ("linux/arm64", ["linux/amd64", "linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/aarch64", ["linux/amd64", "linux/arm64"], "linux/arm64"),
        ("linux/x86_64", ["linux/arm64", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64"], "linux/amd64"),
        ("linux/arm", ["linux/arm/v5", "linux/arm/v7"], "linux/arm/v7"),
        ("linux/arm", ["linux/amd64", "linux/arm/v6"], "linux/arm/v6"),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm"], "linux/arm"),
        ("linux/arm/v6", ["linux/arm/v5", "linux/arm/v7"], None),
        ("linux/amd64", ["windows/amd64"], None),
    ],
)
def test_a_platform_means_what_runs_there(wanted: str, offered: list[str], meant: str | None) -> None:
    found = manifest_for(index(*offered), parse_platform(wanted))
    assert (found and found.digest) == (meant and Digest.of(meant.encode()))
