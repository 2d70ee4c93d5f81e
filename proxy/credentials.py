"""This node's own credentials for an upstream: from the configuration, or as docker keeps them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from proxy.identity import Identity, node_identity, node_token_identity
from proxy.settings import CredentialsUnreadable, EndpointSettings
from shoal.reference import DOCKER_HUB, InvalidReference, Registry, parse_registry

log = structlog.get_logger()

_KEPT_SECONDS = 300.0
"""How long credentials that a helper gave are used before it is asked again; those of clouds last for hours."""

_HELPER_SECONDS = 4.0
_MAX_FILE_SIZE = 4 << 20
_MAX_ANSWER_SIZE = 1 << 20
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOKEN_USER = "<token>"
_HUB_KEY = "https://index.docker.io/v1/"


class _Auth(msgspec.Struct, rename={"identity_token": "identitytoken"}):
    auth: str = ""
    username: str = ""
    password: str = ""
    identity_token: str = ""


class _DockerConfig(msgspec.Struct, rename="camel"):
    auths: dict[str, _Auth] = {}
    cred_helpers: dict[str, str] = {}
    creds_store: str = ""


class _Helped(msgspec.Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


class NodeCredentials:
    """Who this node is at one address of a registry. What a file or a helper says is asked for anew at times."""

    def __init__(self, registry: Registry, settings: EndpointSettings, clock: Callable[[], float]) -> None:
        """Raises `CredentialsUnreadable` for a password file that cannot be read."""
        self._registry = registry
        self._file = Path(settings.docker_config).expanduser() if settings.docker_config else None
        self._clock = clock
        named = settings.credentials()
        self._identity = node_identity(*named) if named is not None else None
        self._until = 0.0
        self._turn = asyncio.Lock()

    async def get(self) -> Identity | None:
        """The node's credentials, or None where it has none. What cannot be read is logged, and is none."""
        if self._file is None:
            return self._identity
        async with self._turn:
            if self._clock() >= self._until:
                try:
                    self._identity = await self._read(self._file)
                except CredentialsUnreadable as error:
                    log.warning("credentials.unreadable", registry=self._registry, error=str(error))
                    self._identity = None
                self._until = self._clock() + _KEPT_SECONDS
            return self._identity

    def refused(self) -> None:
        """The upstream did not take them: they are read again for the next request."""
        self._until = 0.0

    async def _read(self, file: Path) -> Identity | None:
        try:
            content = await asyncio.to_thread(_content, file)
            config = msgspec.json.decode(content, type=_DockerConfig)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CredentialsUnreadable(f"`docker_config` {str(file)!r}: {error}") from None
        for key, helper in config.cred_helpers.items():
            if _names(key, self._registry):
                return await _ask_helper(helper, key)
        if config.creds_store:
            key = _HUB_KEY if self._registry == DOCKER_HUB else self._registry
            return await _ask_helper(config.creds_store, key)
        for key, entry in config.auths.items():
            if _names(key, self._registry):
                return _identity(entry)
        return None


def _content(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(_MAX_FILE_SIZE)


def _names(key: str, registry: Registry) -> bool:
    """Whether a key of `auths` or `credHelpers` means a registry: a host, or an address of any of docker's forms."""
    host = key.partition("//")[2].partition("/")[0] if "//" in key else key.partition("/")[0]
    try:
        return parse_registry(host) == registry
    except InvalidReference:
        return False


def _identity(entry: _Auth) -> Identity | None:
    if entry.identity_token:
        return node_token_identity(entry.identity_token)
    if entry.username:
        return node_identity(entry.username, entry.password)
    if not entry.auth:
        return None
    try:
        username, colon, password = base64.b64decode(entry.auth, validate=True).decode().rstrip("\0").partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise CredentialsUnreadable("an `auth` that is not base64") from None
    if not colon:
        raise CredentialsUnreadable("an `auth` without a password")
    return node_identity(username, password)


async def _ask_helper(helper: str, key: str) -> Identity | None:
    """What `docker-credential-HELPER get` says of a server; None where it has nothing."""
    if not _HELPER.fullmatch(helper):
        raise CredentialsUnreadable(f"not a credential helper's name: {helper[:100]!r}")
    program = f"docker-credential-{helper}"
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            "get",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        raise CredentialsUnreadable(f"{program}: {error.strerror or error}") from None
    try:
        async with asyncio.timeout(_HELPER_SECONDS):
            answer, _ = await process.communicate(key.encode())
    except TimeoutError:
        raise CredentialsUnreadable(f"{program} gave no answer within {_HELPER_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        return None
    try:
        helped = msgspec.json.decode(answer[:_MAX_ANSWER_SIZE], type=_Helped)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CredentialsUnreadable(f"{program}: {error}") from None
    if not helped.secret:
        return None
    if helped.username == _TOKEN_USER:
        return node_token_identity(helped.secret)
    return node_identity(helped.username, helped.secret)
