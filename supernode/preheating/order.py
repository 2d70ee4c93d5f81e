"""What is ordered: which images are to be preheated on which nodes, and how. No I/O."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from shoal.limits import check_limit
from shoal.platforms import ALL_PLATFORMS, parse_platform
from shoal.reference import InvalidReference, Reference
from supernode.preheating.selection import Selection
from supernode.protocol import MAX_PLATFORMS

MAX_IMAGES = 1000
"""Images of one order."""
_MAX_TEXT = 1024


class PreheatOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An order as it comes over the API. Raises `ValueError` for what cannot be."""

    images: Annotated[list[Annotated[str, Meta(max_length=_MAX_TEXT)]], Meta(min_length=1, max_length=MAX_IMAGES)]
    """References, as `docker.io/library/alpine:3.20`."""

    nodes: Annotated[str, Meta(max_length=_MAX_TEXT)] = "all"
    """`all`, a number, a share such as `20%`, `label=value`, `name=NODE`, or several of these with commas."""

    platforms: Annotated[list[str], Meta(max_length=MAX_PLATFORMS)] = []
    """Of images for several, such as `linux/arm64`, or `all`. Empty: each node's own."""

    pin: bool = False
    """Whether the images are pinned on the nodes, under their references."""

    rate: Annotated[int, Meta(ge=0, le=1 << 53)] = 0
    """Bytes per second that each node takes at most for all that it preheats; 0: no more than its own limit."""

    concurrency: Annotated[int, Meta(ge=1, le=100_000)] = 100
    """Nodes at a time."""

    referrers: bool = True
    """Whether signatures, SBOMs and the like come with an image."""

    def __post_init__(self) -> None:
        try:
            images = [str(Reference.parse(image)) for image in self.images]
        except InvalidReference as error:
            raise ValueError(str(error)) from None
        for platform in self.platforms:
            if platform != ALL_PLATFORMS:
                parse_platform(platform)
        check_limit("rate", self.rate)
        Selection.parse(self.nodes)
        msgspec.structs.force_setattr(self, "images", list(dict.fromkeys(images)))
