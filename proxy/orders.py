"""What an operator may ask of a node at its operations port: the paths, and what stands in the bodies, as JSON."""

from __future__ import annotations

import msgspec

from shoal.reference import Reference

STATUS_PATH, REFRESH_PATH, REMOVE_PATH = "/v1/status", "/v1/refresh", "/v1/rm"
IMAGES_PATH = "/v1/images"
PULLS_PATH, EXPLAIN_PATH = "/v1/pulls", "/v1/pulls/explain"
PIN_PATH, UNPIN_PATH, SWEEP_PATH, VERIFY_PATH = "/v1/pin", "/v1/unpin", "/v1/gc", "/v1/verify"


class ImageOrder(msgspec.Struct):
    """An order about one image."""

    image: str

    @property
    def reference(self) -> Reference:
        """Raises `InvalidReference`."""
        return Reference.parse(self.image)


class SweepOrder(msgspec.Struct):
    """An order to remove what is not needed."""

    dry_run: bool = False


class VerifyOrder(msgspec.Struct):
    """An order to hash all that is stored."""
