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
    """No connection, a time-out, a 5xx status, a body that broke off: may go well the next time.

    `after`: seconds that the origin asked to wait before the next try, where it said so.
    """

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class SizeDiffers(OriginUnavailable):
    """The origin's answer to GET says that the blob has `size` bytes, and another size was believed."""

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size


class OriginDenied(OriginError):
    """The origin refuses whoever was asked for (401, 403), or the configuration does not name the origin.

    `challenges`: the origin's `WWW-Authenticate` headers, where it said what it wants. `is_forbidden`: it knew who
    asked, or did not want to know (403).
    """

    def __init__(self, message: str, challenges: tuple[str, ...] = (), *, is_forbidden: bool = False) -> None:
        super().__init__(message)
        self.challenges = challenges
        self.is_forbidden = is_forbidden


class OriginNotFound(OriginError):
    """The origin has no such repository, tag or blob. `code` is the API's, where the origin gave one."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class NoRange(OriginError):
    """The origin sends the whole blob where a part was asked for."""


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

        It is one attempt, with the signing in and the redirects that belong to it: whether and where to try again is
        the caller's decision. Raises `OriginError`, and `SizeDiffers` before the first byte.
        """
