"""Changes of a running daemon over its operations port: by whom they may be made, and what the audit log says of them.

Who changes a node is on that machine and bears the operator's token. Both: the port speaks HTTP without TLS, so that
a token that somebody has overheard on the network changes nothing, and on the machine itself there may be others, such
as containers that share its network. A supernode is led from other machines too, by the token alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec
import structlog
from aiohttp import hdrs, web

from shoal.audit import Audit
from shoal.fields import is_loopback
from shoal.operator import TokenUnusable
from shoal.reference import InvalidReference

log = structlog.get_logger()

_MAX_FAILURES, _FAILURE_SECONDS = 10, 10.0
"""Requests with a wrong token that are answered and logged in so much time; the next ones are only turned away."""

_CHALLENGE = {hdrs.WWW_AUTHENTICATE: 'Bearer realm="shoal operations"'}
_TURNED_AWAY = {hdrs.RETRY_AFTER: str(int(_FAILURE_SECONDS))}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Outcome = Mapping[str, object]
T = TypeVar("T", bound=msgspec.Struct)


class OrderRefused(Exception):
    """What was ordered cannot be done; the text is for the operator."""


async def not_reloaded() -> Outcome:
    """For what goes on by the configuration that it began with."""
    raise OrderRefused("the configuration is not read again here")


class Token(Protocol):
    """What proves that somebody may (`shoal.operator.OperatorToken` is one)."""

    def is_in(self, authorization: Sequence[str]) -> bool:
        """Whether the `Authorization` headers of a request hold it; raises `TokenUnusable`."""


class Changes:
    """Makes the handlers of what the operator alone may do, or see from other machines."""

    def __init__(
        self,
        token: Token,
        audit: Audit | None,
        clock: Callable[[], float] = time.monotonic,
        *,
        from_elsewhere: bool = False,
    ) -> None:
        """Who bears `token` may. `from_elsewhere`: whether changes are taken from other machines."""
        self._token = token
        self._audit = audit
        self._clock = clock
        self._from_elsewhere = from_elsewhere
        self._failures: deque[float] = deque(maxlen=_MAX_FAILURES)

    def change(self, action: str, kind: type[T], carry_out: Callable[[T], Awaitable[Outcome]]) -> Handler:
        """A handler that reads an order of type `kind` from a request's JSON and has it carried out.

        `carry_out` gives what is answered as JSON; `InvalidReference` and `OrderRefused` from it are the
        client's errors.
        `action` is what the audit log calls it; the fields of the order and the plain values of the outcome stand
        beside it.
        """
        return self.order(action, kind, lambda order, _: carry_out(order))

    def order(self, action: str, kind: type[T], carry_out: Callable[[T, web.Request], Awaitable[Outcome]]) -> Handler:
        """As `change` does, for an order of which a part stands elsewhere in the request."""

        async def handle(request: web.Request) -> web.StreamResponse:
            started = self._clock()
            said: dict[str, object] = {}
            refusal = self._refusal(request)
            if refusal is not None:
                if refusal.status != web.HTTPTooManyRequests.status_code:
                    self._record(request, action, refusal.status, started, said)
                return refusal
            status = web.HTTPInternalServerError.status_code
            try:
                try:
                    order = msgspec.json.decode(await request.read() or b"{}", type=kind)
                    said |= _as_texts(msgspec.to_builtins(order))
                    outcome = await carry_out(order, request)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidReference) as error:
                    status = web.HTTPBadRequest.status_code
                    return web.json_response({"error": str(error)}, status=status)
                except web.HTTPException as error:  # a body that is too large
                    status = error.status
                    raise
                except OrderRefused as error:
                    status = web.HTTPConflict.status_code
                    return web.json_response({"error": str(error)}, status=status)
                said = {**outcome, **said}
                status = web.HTTPOk.status_code
                return web.json_response(outcome)
            finally:
                self._record(request, action, status, started, said)

        return handle

    def look(self, give: Callable[[], Outcome | Awaitable[Outcome]]) -> Handler:
        """A handler for what everybody on this machine may see, and from other machines who bears the token."""

        async def handle(_: web.Request) -> web.StreamResponse:
            given = give()
            return web.json_response(await given if isinstance(given, Awaitable) else given)

        return self.show(handle)

    def show(self, handler: Handler) -> Handler:
        """The same handler, for those alone whom `look` lets see."""

        async def handle(request: web.Request) -> web.StreamResponse:
            refusal = None if _is_here(request) else self._unknown(request)
            return await handler(request) if refusal is None else refusal

        return handle

    def _refusal(self, request: web.Request) -> web.Response | None:
        if not self._from_elsewhere and not _is_here(request):
            return web.json_response({"error": "changes are made from the node itself"}, status=403)
        return self._unknown(request)

    def _unknown(self, request: web.Request) -> web.Response | None:
        """The answer to who does not bear the token. The right token is always heard, whatever others have tried."""
        try:
            if self._token.is_in(request.headers.getall(hdrs.AUTHORIZATION, [])):
                return None
            reason = "the operator's token is needed"
        except TokenUnusable as error:
            log.error("operations.token_unusable", error=str(error))
            reason = "this node has no operator's token"
        now = self._clock()
        if len(self._failures) == _MAX_FAILURES and now - self._failures[0] < _FAILURE_SECONDS:
            return web.json_response({"error": "too many wrong tokens"}, status=429, headers=_TURNED_AWAY)
        self._failures.append(now)
        log.warning("operations.refused", client=request.remote, path=request.path[:100], reason=reason)
        return web.json_response({"error": reason}, status=401, headers=_CHALLENGE)

    def _record(
        self, request: web.Request, action: str, status: int, started: float, said: Mapping[str, object]
    ) -> None:
        if self._audit is None:
            return
        plain = {name: value for name, value in said.items() if isinstance(value, str | int | float)}
        seconds = round(self._clock() - started, 4)
        self._audit.record(
            **{**plain, "client": request.remote, "action": action, "status": status, "seconds": seconds}
        )


def _as_texts(said: Mapping[str, object]) -> dict[str, object]:
    """What was ordered, with lists of texts as one."""
    return {
        name: " ".join(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else value
        for name, value in said.items()
    }


def _is_here(request: web.Request) -> bool:
    """Whether a request comes from this machine: by loopback, or from the very address that it came to."""
    remote = request.remote or ""
    own = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return is_loopback(remote) or (own is not None and own[0] == remote)
