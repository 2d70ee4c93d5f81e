"""Changes of a running daemon over its operations port: by whom they may be made, and what the audit log says of them.

Who changes a node is on that machine and bears the operator's token. Both: a token alone may have been overheard on the
network, where the port has no certificate, and on the machine itself there may be others, such as containers that share
its network. A supernode is led from other machines too, by the token alone.

A browser shows the token once and has a session then, by a cookie. A page of somebody else must not use either: a
change by a cookie has to come from a page of this port (`Origin`), and who is on this machine may look without a token
only where he asks by an address of it or its own name (`Host`), so that no other name that is made to lead here does.
"""

from __future__ import annotations

import ipaddress
import socket
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
from shoal.sessions import Sessions

log = structlog.get_logger()

_MAX_FAILURES, _FAILURE_SECONDS = 10, 10.0
"""Requests with a wrong token that are answered and logged in so much time; the next ones are only turned away."""

_CHALLENGE = {hdrs.WWW_AUTHENTICATE: 'Bearer realm="shoal operations"'}
SESSION_COOKIE = "shoal_session"
_FORWARDED = ("Forwarded", "X-Forwarded-For")
"""What proxies say of whom they ask for."""
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
        sessions: Sessions | None = None,
    ) -> None:
        """Who bears `token` may. `from_elsewhere`: whether changes are taken from other machines. `sessions`: those of
        browsers that stand for the token, where there are any."""
        self._token = token
        self._audit = audit
        self._clock = clock
        self._from_elsewhere = from_elsewhere
        self._sessions = sessions
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
                    return web.json_response({"error": error.text}, status=status)
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
            refusal = None if _may_look_unknown(request) else self._unknown(request, self.authorization(request))
            return await handler(request) if refusal is None else refusal

        return handle

    def prove(self, action: str, handler: Handler) -> Handler:
        """The same handler, for those alone who bear the token itself, and noted as `action` in the audit log."""

        async def handle(request: web.Request) -> web.StreamResponse:
            started = self._clock()
            answer = self._unknown(request, _shown(request)) or await handler(request)
            if answer.status != web.HTTPTooManyRequests.status_code:
                self._record(request, action, answer.status, started, {})
            return answer

        return handle

    def may_look(self, request: web.Request) -> bool:
        """Whether a request may be shown the state, now: here, by a token, or by a session."""
        return _may_look_unknown(request) or self._is_good(self.authorization(request))

    def has_session(self, request: web.Request) -> bool:
        """Whether a browser has a session, by which it may make changes too."""
        return self._is_good(self._of_session(request))

    def _is_good(self, authorization: Sequence[str]) -> bool:
        try:
            return self._token.is_in(authorization)
        except TokenUnusable:
            return False

    def authorization(self, request: web.Request) -> list[str]:
        """The `Authorization` headers of a request, or the one that its session stands for."""
        return _shown(request) or self._of_session(request)

    def _of_session(self, request: web.Request) -> list[str]:
        name = request.cookies.get(SESSION_COOKIE, "")
        stood_for = self._sessions.authorization(name) if self._sessions is not None and name else None
        return [] if stood_for is None else [stood_for]

    def _refusal(self, request: web.Request) -> web.Response | None:
        if not self._from_elsewhere and not _is_here(request):
            return web.json_response({"error": "changes are made from the node itself"}, status=403)
        return self._unknown(request, self.authorization(request) if _is_own_page(request) else _shown(request))

    def _unknown(self, request: web.Request, authorization: Sequence[str]) -> web.Response | None:
        """The answer to who does not bear the token. The right token is always heard, whatever others have tried."""
        try:
            if self._token.is_in(authorization):
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


def _shown(request: web.Request) -> list[str]:
    return request.headers.getall(hdrs.AUTHORIZATION, [])


def _is_own_page(request: web.Request) -> bool:
    """Whether a browser says that it is a page of this very port which asks. Browsers say so of each change."""
    return request.headers.get(hdrs.ORIGIN, "").partition("://")[2] == request.host


def _may_look_unknown(request: web.Request) -> bool:
    """Whether somebody on this machine asks for this machine, and not for somebody else."""
    return _is_here(request) and _is_own_name(request) and not any(name in request.headers for name in _FORWARDED)


def _is_own_name(request: web.Request) -> bool:
    """Whether a request is for an address, which nobody can make lead elsewhere, or for this machine by its name."""
    host = request.headers.get(hdrs.HOST, "")  # without it, it comes from no browser
    name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
    if not name or is_loopback(name) or name.lower() == socket.gethostname().lower():
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _is_here(request: web.Request) -> bool:
    """Whether a request comes from this machine: by loopback, or from the very address that it came to."""
    remote = request.remote or ""
    own = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return is_loopback(remote) or (own is not None and own[0] == remote)
