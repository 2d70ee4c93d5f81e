"""How a browser signs in: it shows the operator's token once, and has a session by a cookie hidden from scripts."""

from __future__ import annotations

from aiohttp import hdrs, web

from shoal.changes import SESSION_COOKIE, Changes
from shoal.sessions import LIFETIME_SECONDS, Sessions

SESSION_PATH = "/v1/session"


class SignIn:
    """`routes` belong to the operations server."""

    def __init__(self, changes: Changes, sessions: Sessions) -> None:
        self._changes = changes
        self._sessions = sessions

    def routes(self) -> list[web.RouteDef]:
        """Whether there is a session, its beginning and its end."""
        return [
            web.get(SESSION_PATH, self._show),
            web.post(SESSION_PATH, self._changes.prove("sign_in", self._open)),
            web.delete(SESSION_PATH, self._close),
        ]

    async def _show(self, request: web.Request) -> web.Response:
        told = {"may_look": self._changes.may_look(request), "signed_in": self._changes.has_session(request)}
        return web.json_response(told, headers={hdrs.CACHE_CONTROL: "no-store"})

    async def _open(self, request: web.Request) -> web.Response:
        (authorization,) = request.headers.getall(hdrs.AUTHORIZATION)
        response = web.json_response({"may_look": True, "signed_in": True})
        response.set_cookie(
            SESSION_COOKIE,
            self._sessions.open(authorization),
            max_age=int(LIFETIME_SECONDS),
            secure=request.secure,
            httponly=True,
            samesite="Strict",
        )
        return response

    async def _close(self, request: web.Request) -> web.Response:
        self._sessions.close(request.cookies.get(SESSION_COOKIE, ""))
        response = web.json_response({"may_look": self._changes.may_look(request), "signed_in": False})
        response.del_cookie(SESSION_COOKIE, secure=request.secure, httponly=True, samesite="Strict")
        return response
