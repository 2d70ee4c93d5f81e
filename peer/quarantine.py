"""The folder of files that are not what was verified under their names. It is kept for who wants to know why."""

from __future__ import annotations

import contextlib
import os
import stat

import structlog

from peer.disk import failing_to
from peer.eviction import Kept
from peer.imagelayout import ImageLayout
from peer.inventory import Inventory, Verified
from peer.leftovers import file_name
from shoal.digest import Digest, InvalidDigest

log = structlog.get_logger()


class Quarantine:
    """Takes damaged blobs out of service, and holds their files until there is no room."""

    def __init__(self, layout: ImageLayout, inventory: Inventory) -> None:
        self._layout = layout
        self._folder = layout.quarantine
        self._inventory = inventory

    def take(self, digest: Digest, known: Verified | None, reason: str) -> bool:
        """Serve a blob no longer and move its file here, if there is one; False where it is another one by now.

        `known` is what the inventory said of the file when it was looked at. Raises `StoreError` where the file cannot
        be moved; it is not served all the same.
        """
        if not self._inventory.lose(digest, known):
            return False
        with failing_to(f"quarantine {digest}"):
            try:
                self._layout.path(digest).rename(self._folder / file_name(digest))
            except FileNotFoundError:
                log.error("blob.missing", digest=digest)
                return True
        log.error("blob.quarantined", digest=digest, reason=reason)
        return True

    def files(self) -> dict[Digest, Kept]:
        """What is here; raises `StoreError`."""
        found: dict[Digest, Kept] = {}
        with failing_to(f"read {self._folder}"), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(InvalidDigest, FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        found[Digest(entry.name.replace("-", ":", 1))] = Kept(status.st_size, status.st_mtime)
        return found

    def remove(self, digest: Digest) -> None:
        """Remove a file for good; raises `StoreError`."""
        with failing_to(f"remove {digest} from quarantine"):
            (self._folder / file_name(digest)).unlink(missing_ok=True)
