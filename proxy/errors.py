"""What goes wrong in the proxy, and the one place where any error becomes an answer of the distribution API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import ClassVar

import msgspec

from peer.errors import DownloadFailed, Stopping
from peer.origin import OriginDenied, OriginError, OriginNotFound
from shoal.redaction import redacted


class AuthorityUnusable(Exception):
    """A certificate authority that cannot be read, made or signed with. Its text says what to do."""


class RequestError(Exception):
    """A request that cannot be answered as it is; `status` and `code` are the API's."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "UNSUPPORTED"

    @property
    def headers(self) -> Mapping[str, str]:
        """What the answer carries besides its body."""
        return {}


class InvalidName(RequestError):
    """A path that holds no repository's name."""

    code = "NAME_INVALID"


class InvalidTag(RequestError):
    """A reference that is neither a tag nor a digest."""

    code = "MANIFEST_INVALID"


class InvalidDigestInRequest(RequestError):
    """A digest that does not parse."""

    code = "DIGEST_INVALID"


class InvalidAuthorization(RequestError):
    """Credentials that no registry could judge."""

    code = "UNAUTHORIZED"


class InvalidQuery(RequestError):
    """Parameters of a list that make no sense."""

    code = "PAGINATION_NUMBER_INVALID"


class UnknownUpstream(RequestError):
    """A registry that the configuration does not name.

    404, since that makes every client go on to the origin at once: containerd and podman try their next host after any
    error, docker asks again for five times and loses seconds where it gets a 5xx.
    """

    status = 404
    code = "NAME_UNKNOWN"


class UnknownEndpoint(RequestError):
    """A path outside the pull side of the API."""

    status = 404


class PushRefused(RequestError):
    """A method that changes a registry."""

    status = 405

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Allow": "GET, HEAD"}


class ProxyRefused(RequestError):
    """A request of forward-proxy mode to a host that is not reached for clients."""

    status = 403
    code = "DENIED"


class MisdirectedRequest(RequestError):
    """A request inside an opened host that is meant for another one."""

    status = 421


class AdmissionDenied(RequestError):
    """What a rule of this mirror forbids to pull."""

    status = 403
    code = "DENIED"


class UnsatisfiableRange(RequestError):
    """A range outside a blob of `size` bytes."""

    status = 416
    code = "RANGE_INVALID"

    def __init__(self, size: int) -> None:
        super().__init__(f"the range lies outside the blob's {size} bytes")
        self.size = size

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Content-Range": f"bytes */{self.size}"}


class _Entry(msgspec.Struct, frozen=True):
    code: str
    message: str
    detail: dict[str, str]


class _Body(msgspec.Struct, frozen=True):
    errors: list[_Entry]


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error as a client gets it."""

    status: int
    code: str
    message: str
    headers: Sequence[tuple[str, str]] = ()
    detail: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The API's JSON."""
        return msgspec.json.encode(_Body([_Entry(self.code, self.message, dict(self.detail))]))

    @property
    def plain(self) -> bytes:
        """The whole response, behind which the connection ends."""
        body = self.body
        head = (
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body


def answer_to(error: Exception, missing: str, detail: Mapping[str, str]) -> ErrorAnswer:
    """The answer to an error; `missing` is the code for what the origin does not have.

    What the origin refuses is a 401 with the origin's own challenge, which a client with credentials answers at the
    origin's token server or here; without a challenge it is a 403. Every client then asks the origin by itself. An
    error of an unknown kind is a 500.
    """
    headers: list[tuple[str, str]] = []
    match error:
        case RequestError():
            status, code = error.status, error.code
            headers += error.headers.items()
        case OriginNotFound():
            status, code = 404, error.code or missing
        case OriginDenied() if error.challenges:
            status, code = 401, "UNAUTHORIZED"
            headers += [("WWW-Authenticate", challenge) for challenge in error.challenges]
        case OriginDenied():
            status, code = 403, "DENIED"
        case Stopping():
            status, code = 503, "UNAVAILABLE"
        case OriginError() | DownloadFailed():
            status, code = 502, "UNAVAILABLE"
        case _:
            return ErrorAnswer(500, "UNKNOWN", "an error inside the proxy; its log says which", detail=detail)
    return ErrorAnswer(status, code, redacted(str(error)) or type(error).__name__, headers, detail)
