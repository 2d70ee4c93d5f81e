"""What can go wrong with a blob on its way, besides the origin's own errors (`peer.origin`)."""

from __future__ import annotations


class DownloadFailed(Exception):
    """A download cannot go on."""


class DigestMismatch(DownloadFailed):
    """All bytes came and they are not the blob that was asked for."""


class Unwanted(DownloadFailed):
    """Nobody wants it any more."""


class Stopping(DownloadFailed):
    """The daemon is shutting down."""
