"""As whom an upstream is asked: nobody, this node, or a client with what it sent itself. No I/O."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from proxy.errors import InvalidAuthorization

MAX_AUTHORIZATION = 16 << 10
"""Characters of an `Authorization` header; tokens that list many repositories have some thousand."""

_MAX_NAME = 128
"""Characters of a name that is shown, and told to the cluster."""

_KEY = secrets.token_bytes(32)
"""Of this process: what names credentials in tables and logs says nothing about them elsewhere."""

_SCHEMES = {"basic", "bearer"}


@dataclass(frozen=True, slots=True)
class Identity:
    """Credentials under a name that may be shown. `key` is that name: the same credentials have the same."""

    key: str
    authorization: str | None = field(default=None, repr=False)
    """The `Authorization` header: `Basic` with a password, or `Bearer` with a token that is sent as it is."""

    identity_token: str | None = field(default=None, repr=False)
    """What a token server gave at a login instead of a password."""

    @property
    def is_token(self) -> bool:
        """Whether it is a token for the registry itself: nothing can be asked of a token server with it."""
        return self.authorization is not None and self.authorization.startswith("Bearer ")

    @property
    def is_client(self) -> bool:
        return self.key.startswith(_CLIENT)

    @property
    def is_shared(self) -> bool:
        """Whether it is this node's own, which the configuration lets serve everybody."""
        return self.key.startswith(_NODE)


_CLIENT = "client:"
_NODE = "node:"
ANONYMOUS = Identity("anonymous")


def node_identity(username: str, password: str) -> Identity:
    """The credentials that the configuration gives this node."""
    name = username if len(username) <= _MAX_NAME else hashlib.sha256(username.encode()).hexdigest()
    return Identity(f"{_NODE}{name}", basic(username, password))


def node_token_identity(token: str) -> Identity:
    """An identity token of this node's configuration.

    Its name outlives the process and is the same on all nodes, so that what the cluster knows serves them; such tokens
    are too long to be found from their hash.
    """
    return Identity(f"{_NODE}{hashlib.sha256(token.encode()).hexdigest()[:32]}", identity_token=token)


def basic(username: str, password: str) -> str:
    """The `Authorization` header of a name and a password (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


def client_identity(headers: Sequence[str]) -> Identity | None:
    """Who a client says that it is in its `Authorization` headers; None where there are none.

    Raises `InvalidAuthorization` for what no registry could judge.
    """
    if not headers:
        return None
    if len(headers) > 1:
        raise InvalidAuthorization("several Authorization headers")
    scheme, _, rest = headers[0].strip().partition(" ")
    text, scheme = rest.strip(), scheme.lower()
    if scheme not in _SCHEMES:
        raise InvalidAuthorization("an Authorization that is neither Basic nor Bearer")
    if not text or len(text) > MAX_AUTHORIZATION or not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidAuthorization("an Authorization header that does not parse")
    if scheme == "basic" and not _is_basic(text):
        raise InvalidAuthorization("a Basic Authorization that does not parse")
    authorization = f"{scheme.capitalize()} {text}"
    return Identity(_CLIENT + _digest(authorization), authorization)


def claimed_name(headers: Sequence[str]) -> str | None:
    """Who a client says that it is, without what proves it: a user's name, or the subject of a token (`sub`).

    It is as true as the origin's answer to these credentials: for what everybody may read, nobody has looked at them.
    """
    try:
        identity = client_identity(headers)
    except InvalidAuthorization:
        return None
    if identity is None or identity.authorization is None:
        return None
    scheme, _, text = identity.authorization.partition(" ")
    name = _user(text) if scheme == "Basic" else _subject(text)
    return name if name and len(name) <= _MAX_NAME and name.isprintable() else None


def _user(text: str) -> str:
    """Empty where there is no password: what stands in place of the name may be the secret then."""
    name, _, password = base64.b64decode(text).partition(b":")
    return name.decode(errors="replace") if password else ""


def _subject(token: str) -> str:
    """Of a JSON Web Token (RFC 7519); empty for others, of which no part is to be shown."""
    _, _, rest = token.partition(".")
    claims, dot, _ = rest.partition(".")
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(f"{claims}==") if dot else b"", type=_Claims).sub
    except (msgspec.DecodeError, ValueError, RecursionError):  # of base64 too
        return ""


class _Claims(msgspec.Struct):
    sub: str = ""


def _is_basic(text: str) -> bool:
    try:
        return b":" in base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False


def _digest(text: str) -> str:
    return hmac.new(_KEY, text.encode(), hashlib.sha256).hexdigest()[:32]
