"""A token server for the real registry, as distribution describes it: JSON web tokens for an account and a scope, by
GET with basic authentication and by the OAuth 2 form, with refresh tokens."""

from __future__ import annotations

import base64
import fnmatch
import json
import secrets
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field

from aiohttp import BasicAuth, hdrs, web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from bench.daemons import free_ports
from tests.world.certificates import Authority, Certificate
from tests.world.threads import serve

ANONYMOUS = ""
_COORDINATE_BYTES = 32  # of a signature by P-256


@dataclass
class TokenServer:
    """Signs tokens that a registry takes which trusts `authority`."""

    authority: Authority
    users: dict[str, str]
    """Passwords by name."""
    grants: dict[str, list[str]]
    """Patterns of the repositories that a user may read; those of `ANONYMOUS` everybody may."""
    lifetime: float = 300.0
    """Seconds for which a token is good."""
    status: int = 0
    """Answers every request in its place."""
    requests: Counter[str] = field(default_factory=Counter)
    """By user as the request names him, whether or not his password was right."""
    service: str = "registry.test"
    issuer: str = "tokens.test"
    address: str = ""
    """Where clients find it; on loopback without TLS unless told. A name: crane trusts no realm at an address there."""
    port: int = 0
    _refresh: dict[str, str] = field(default_factory=dict)
    _signer: Certificate | None = None

    def __post_init__(self) -> None:
        (self.port,) = free_ports(1)
        self.address = self.address or f"http://localhost:{self.port}"
        self._signer = self.authority.issue(self.issuer)

    @property
    def realm(self) -> str:
        return f"{self.address}/token"

    def start(self, stack: ExitStack) -> None:
        """Serve from a thread until `stack` ends."""

        async def start(inner: AsyncExitStack) -> None:
            app = web.Application()
            app.router.add_get("/token", self._get)
            app.router.add_post("/token", self._post)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            inner.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", self.port).start()

        serve(start, stack)

    def revoke(self, user: str) -> None:
        """Forget his refresh tokens and what he may read; tokens that he has are good until they expire."""
        self.grants.pop(user, None)
        self._refresh = {token: holder for token, holder in self._refresh.items() if holder != user}

    def token(self, user: str, scopes: list[str]) -> str:
        """A token with what `user` may have of `scopes`."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": user,
            "aud": self.service,
            "iat": now,
            "nbf": now - 10,
            "exp": now + int(self.lifetime),
            "jti": secrets.token_hex(8),
            "access": [access for scope in scopes if (access := self._granted(user, scope))],
        }
        return self._signed(claims)

    async def _get(self, request: web.Request) -> web.Response:
        header = request.headers.get(hdrs.AUTHORIZATION)
        user = ANONYMOUS
        if header is not None:
            try:
                login = BasicAuth.decode(header)
            except ValueError:
                return _refused()
            user = login.login
            self.requests[user] += 1
            if self.users.get(user) != login.password:
                return _refused()
        else:
            self.requests[ANONYMOUS] += 1
        return self._answer(user, request.query.getall("scope", []), "offline_token" in request.query)

    async def _post(self, request: web.Request) -> web.Response:
        form = await request.post()
        user: str | None
        if form.get("grant_type") == "refresh_token":
            user = self._refresh.get(str(form.get("refresh_token")))
        else:
            name = str(form.get("username"))
            user = name if self.users.get(name) == form.get("password") else None
        self.requests[user or str(form.get("username", ANONYMOUS))] += 1
        if user is None:
            return _refused()
        return self._answer(user, str(form.get("scope", "")).split(), form.get("access_type") == "offline")

    def _answer(self, user: str, scopes: list[str], offline: bool) -> web.Response:
        if self.status:
            return web.Response(status=self.status)
        token = self.token(user, [each for scope in scopes for each in scope.split()])
        answer = {"token": token, "access_token": token, "expires_in": int(self.lifetime)}
        if offline and user:
            refresh = secrets.token_hex(16)
            self._refresh[refresh] = user
            answer["refresh_token"] = refresh
        return web.json_response(answer)

    def _granted(self, user: str, scope: str) -> dict[str, object] | None:
        """What distribution calls an access: of a scope `repository:NAME:ACTIONS`, where he may read it."""
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        patterns = [*self.grants.get(user, []), *self.grants.get(ANONYMOUS, [])]
        if kind != "repository" or not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return None
        return {"type": kind, "name": name, "actions": [each for each in actions.split(",") if each == "pull"]}

    def _signed(self, claims: dict[str, object]) -> str:
        assert self._signer is not None
        chain = [base64.b64encode(self._signer.der).decode()]
        parts = [_encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ES256", "x5c": chain}, claims)]
        text = ".".join(parts)
        r, s = decode_dss_signature(self._signer.key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        signature = b"".join(number.to_bytes(_COORDINATE_BYTES, "big") for number in (r, s))
        return f"{text}.{_encoded(signature)}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _refused() -> web.Response:
    return web.json_response({"errors": [{"code": "UNAUTHORIZED", "message": "wrong name or password"}]}, status=401)
