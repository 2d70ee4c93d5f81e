"""This node's own credentials for an upstream: from the configuration, or as docker keeps them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import structlog

from proxy.flight import SingleFlight
from proxy.identity import Identity, node_identity, node_token_identity
from proxy.settings import CredentialsUnreadable, EndpointSettings
from shoal.reference import DOCKER_HUB, InvalidReference, Registry, parse_registry

log = structlog.get_logger()

KEPT_SECONDS = 300.0
"""How long credentials that a helper gave are used before it is asked again; those of clouds last for hours."""

AGAIN_SECONDS = 5.0
"""When they are read again at the earliest, after they were refused or could not be read."""

_HELPER_SECONDS = 10.0
_FIRST_WAIT_SECONDS = 2.5
"""How long a question waits for a slow helper as long as nothing is known; it goes on, and the next one has them."""

_LATER_WAIT_SECONDS = 0.5
_NOTHING_FOUND = b"credentials not found"
"""What every helper says on its output, by its protocol, where it knows nothing about a server."""

_MAX_FILE_SIZE = 4 << 20
_MAX_ANSWER_SIZE = 1 << 20
_MAX_SAID = 200
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


class _Gone(CredentialsUnreadable):
    """There is no file any more: whoever removed it took the credentials from this node."""


class NodeCredentials:
    """Who this node is at one address of a registry. What a file or a helper says is read anew at times.

    What was read last serves while it is being read, and while a helper or a file is out of order.
    """

    def __init__(self, registry: Registry, settings: EndpointSettings, clock: Callable[[], float]) -> None:
        """Raises `CredentialsUnreadable` for a password file that cannot be read."""
        self._registry = registry
        self._file = Path(settings.docker_config).expanduser() if settings.docker_config else None
        self._clock = clock
        named = settings.credentials()
        self._identity = node_identity(*named) if named is not None else None
        self._until = float("-inf")
        self._again_at = float("-inf")
        self._wait = _FIRST_WAIT_SECONDS
        self._reading: SingleFlight[None, None] = SingleFlight()

    async def get(self) -> Identity | None:
        """The node's credentials, or None where it has none. That they cannot be read is logged."""
        if self._file is not None and self._clock() >= self._until:
            file, wait = self._file, self._wait
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._reading.run(None, lambda: self._renew(file))
            self._wait = _LATER_WAIT_SECONDS
        return self._identity

    async def read(self) -> Identity | None:
        """What the configuration, the file or the helper says now; raises `CredentialsUnreadable`."""
        return self._identity if self._file is None else await self._read(self._file)

    def refused(self) -> None:
        """The upstream did not take them: they are read again, but not with each request of somebody who is refused."""
        self._until = min(self._until, self._again_at)

    async def close(self) -> None:
        """Give up what is being read."""
        await self._reading.close()

    async def _renew(self, file: Path) -> None:
        try:
            self._identity = await self._read(file)
            kept = KEPT_SECONDS
        except CredentialsUnreadable as error:
            log.warning("credentials.unreadable", registry=self._registry, error=str(error))
            if isinstance(error, _Gone):
                self._identity = None
            kept = AGAIN_SECONDS
        now = self._clock()
        self._until, self._again_at = now + kept, now + AGAIN_SECONDS

    async def _read(self, file: Path) -> Identity | None:
        try:
            content = await asyncio.to_thread(_content, file)
            config = msgspec.json.decode(content, type=_DockerConfig)
        except FileNotFoundError:
            raise _Gone(f"`docker_config` {str(file)!r} is not there") from None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CredentialsUnreadable(f"`docker_config` {str(file)!r}: {error}") from None
        for key in self._keys(config.cred_helpers):
            return await _ask_helper(config.cred_helpers[key], key)
        if config.creds_store:
            key = _HUB_KEY if self._registry == DOCKER_HUB else self._registry
            return await _ask_helper(config.creds_store, key)
        for key in self._keys(config.auths):
            return _identity(config.auths[key])
        return None

    def _keys(self, names: Iterable[str]) -> list[str]:
        """Those that mean this registry; its plain name first, since podman keeps logins of parts of registries too."""
        found = [name for name in names if _names(name, self._registry)]
        return sorted(found, key=lambda name: name != self._registry)


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
            start_new_session=True,
        )
    except OSError as error:
        raise CredentialsUnreadable(f"{program}: {error.strerror or error}") from None
    try:
        async with asyncio.timeout(_HELPER_SECONDS):
            answer = await _answer(process, key)
            status = await process.wait()
    except TimeoutError:
        raise CredentialsUnreadable(f"{program} gave no answer within {_HELPER_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the programs that it has started
            await process.wait()
    if status:
        if _NOTHING_FOUND in answer:
            return None
        said = answer[:_MAX_SAID].decode("ascii", "backslashreplace").strip()
        raise CredentialsUnreadable(f"{program} failed with status {status}: {said}")
    try:
        helped = msgspec.json.decode(answer, type=_Helped)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CredentialsUnreadable(f"{program}: {error}") from None
    if not helped.secret:
        return None
    if helped.username == _TOKEN_USER:
        return node_token_identity(helped.secret)
    return node_identity(helped.username, helped.secret)


async def _answer(process: asyncio.subprocess.Process, key: str) -> bytes:
    """What a helper writes for a server's name; of an endless answer only the beginning."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(key.encode())
    process.stdin.close()
    answer = bytearray()
    while len(answer) <= _MAX_ANSWER_SIZE and (chunk := await process.stdout.read(_MAX_ANSWER_SIZE)):
        answer += chunk
    if len(answer) > _MAX_ANSWER_SIZE:
        raise CredentialsUnreadable(f"a credential helper's answer of more than {_MAX_ANSWER_SIZE} bytes")
    return bytes(answer)
