"""The origin as the piece engine sees it: fetches a stretch of a blob. `proxy.upstream` implements it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from shoal.descriptor import Descriptor
from shoal.reference import Location


class OriginError(Exception):
    """The origin did not give what was asked for."""


class OriginUnavailable(OriginError):
    """No connection, a time-out, a 5xx status, a body that broke off: may go well the next time."""


class OriginDenied(OriginError):
    """The origin refuses this node's credentials (401, 403), or the configuration does not name the origin."""


class OriginNotFound(OriginError):
    """The origin has no such repository, tag or blob."""


class OriginBody(Protocol):
    """An open response of the origin."""

    @property
    def start(self) -> int:
        """Offset of the first byte that comes; 0 where the origin ignored the range."""

    @property
    def size(self) -> int | None:
        """Length of the whole blob in bytes, where the origin said it."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come; raises `OriginUnavailable` where they break off before their announced length."""


class Origin(Protocol):
    """A registry that is asked for blobs and manifests by digest."""

    def fetch(
        self, location: Location, blob: Descriptor, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[OriginBody]:
        """Open bytes `start` to `end` (not included; None: the rest). The whole blob is one plain GET without Range.

        Tries again with backoff while nothing has come yet. Raises `OriginError`.
        """
