"""Platforms of images for several: how people write them, and which of an index's manifests is meant."""

from __future__ import annotations

import platform as machine
import re

from shoal.descriptor import Descriptor, Manifest, Platform

ALL_PLATFORMS = "all"
"""In place of a platform: every one that an image has."""

_PART = re.compile(r"[A-Za-z0-9._+-]{1,32}")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
"""What machines call themselves, and images do not."""
_VARIANTS = {("amd64", "v1"): "", ("arm64", "v8"): "", ("arm", ""): "v7"}
"""Two ways to say the same (containerd's `platforms.Normalize`)."""


def own_platform() -> Platform:
    """What images for this machine are called."""
    return Platform("linux", _ARCHITECTURES.get(machine.machine(), machine.machine()))


def parse_platform(text: str) -> Platform:
    """`OS/ARCH` or `OS/ARCH/VARIANT`; raises `ValueError`."""
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(map(_PART.fullmatch, parts)):
        raise ValueError(f"{text[:100]!r} is no platform (allowed: OS/ARCH or OS/ARCH/VARIANT)")
    os, architecture, *variant = parts
    return Platform(os, _ARCHITECTURES.get(architecture, architecture), *variant)


def manifest_for(index: Manifest, platform: Platform) -> Descriptor | None:
    """The manifest for a platform, None where there is none.

    A platform without a variant takes what each machine of the kind runs, else the first there is.
    """
    kind = platform.os, platform.architecture
    offers = [(child, each) for child, each in index.children if each and (each.os, each.architecture) == kind]
    for child, offered in offers:
        if _variant(offered) == _variant(platform):
            return child
    return offers[0][0] if offers and not platform.variant else None


def _variant(platform: Platform) -> str:
    return _VARIANTS.get((platform.architecture, platform.variant), platform.variant)


def offered_by(index: Manifest) -> str:
    """The platforms of an index, for people."""
    offers = sorted({str(offered) for _, offered in index.children if offered is not None})
    return ", ".join(offers) or "none that names its platform"
