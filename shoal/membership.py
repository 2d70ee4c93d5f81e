"""What this node proves its membership with, and what it wants of others: keys of secrets, or TLS contexts."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import structlog

from shoal.cluster import ClusterSettings, check_secret
from shoal.files import file_state
from shoal.handshake import SecretKey, key_of

log = structlog.get_logger()

POLL_SECONDS = 2.0
"""How often the files are looked at."""
_MAX_FILE_SIZE = 64 << 10
_MAX_SECRETS = 8


class MembershipUnusable(ValueError):
    """A file of the cluster's secret or certificates cannot be used. The text names key and file, and no secret."""


@dataclass(frozen=True, slots=True)
class _Means:
    """All that the files say at one time."""

    keys: Sequence[SecretKey] = ()
    tls: _Contexts | None = None
    ends: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Contexts:
    """TLS 1.3 with the same certificate and authority, for who connects and who is connected to on both planes."""

    to_supernode: ssl.SSLContext
    to_peer: ssl.SSLContext
    of_supernode: ssl.SSLContext
    of_peer: ssl.SSLContext


class Membership:
    """As an async context manager it reads its files again when they change: new connections go by what they say then,
    and running ones go on. Files that cannot be used leave all as it was."""

    def __init__(self, settings: ClusterSettings | None = None) -> None:
        """Without settings everybody is a member. Raises `MembershipUnusable`."""
        self._settings = settings if settings is not None else ClusterSettings()
        names = (self._settings.secret_file, self._settings.cert_file, self._settings.key_file, self._settings.ca_file)
        self._files = [Path(name) for name in names if name]
        self._seen = self._state()
        self._means = _read(self._settings)
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._settings.insecure:
            log.warning("cluster.insecure", meaning="whoever reaches the control or the peer port is a member")
        if self._files:
            self._watching = asyncio.create_task(self._watch(), name="cluster files")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    @property
    def is_open(self) -> bool:
        """Whether everybody is taken for a member."""
        return self._settings.is_open

    @property
    def keys(self) -> Sequence[SecretKey]:
        """The key to prove oneself with, and others that are accepted as well; none where there is no secret."""
        return self._means.keys

    @property
    def tls(self) -> _Contexts | None:
        """For connections that are made now; None where there are no certificates."""
        return self._means.tls

    @property
    def ends(self) -> Mapping[str, float]:
        """When this node's certificate (`cluster`) and the cluster's authority (`cluster_authority`) end, in seconds
        since the epoch; empty where there are no certificates."""
        return self._means.ends

    async def refresh(self) -> None:
        """Read the files again where one of them has changed."""
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._means = await asyncio.to_thread(_read, self._settings)
        except MembershipUnusable as error:
            log.error("cluster.files_unusable", error=str(error), kept="what was read before")
            return
        log.info("cluster.files_read", files=", ".join(map(str, self._files)), secrets=len(self.keys))

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [file_state(file) for file in self._files]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.refresh()
            except Exception:  # a fault of ours: without this task no change would ever be seen
                log.exception("cluster.watch_failed")


def _read(settings: ClusterSettings) -> _Means:
    if settings.secret:
        return _Means(keys=[key_of(settings.secret)])
    if settings.secret_file:
        return _Means(keys=[key_of(secret) for secret in _secrets(settings.secret_file)])
    if settings.uses_tls:
        return _Means(tls=_contexts(settings), ends=_ends(settings))
    return _Means()


def _secrets(name: str) -> list[str]:
    """The secrets of a file, one a line."""
    where = f"`cluster.secret_file` {name!r}"
    try:
        with Path(name).open("rb") as file:
            text = file.read(_MAX_FILE_SIZE).decode()
    except OSError as error:
        raise MembershipUnusable(f"{where} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise MembershipUnusable(f"{where} is not UTF-8") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    found = [(number, secret) for number, secret in lines if secret]
    if not 0 < len(found) <= _MAX_SECRETS:
        raise MembershipUnusable(f"{where} holds {len(found)} secrets (allowed: 1 to {_MAX_SECRETS}, one a line)")
    for number, secret in found:
        try:
            check_secret(f"line {number} of {where}", secret)
        except ValueError as error:
            raise MembershipUnusable(str(error)) from None
    return [secret for _, secret in found]


def _contexts(settings: ClusterSettings) -> _Contexts:
    contexts = [ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) for _ in range(2)]
    contexts += [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2)]
    for context in contexts:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        _load(context, settings)
    to_supernode, to_peer, of_supernode, of_peer = contexts
    to_peer.check_hostname = False  # peers are told of by their addresses, which change
    of_peer.verify_mode = ssl.CERT_REQUIRED
    of_supernode.verify_mode = ssl.CERT_OPTIONAL  # metrics and health are for who has no certificate, too
    for context in (of_supernode, of_peer):
        context.num_tickets = 0  # nobody resumes, and a certificate that was replaced is to count at once
    return _Contexts(to_supernode, to_peer, of_supernode, of_peer)


def _ends(settings: ClusterSettings) -> Mapping[str, float]:
    from cryptography import x509  # 8 MiB, which nodes without certificates need not have

    def end(name: str) -> float:
        found = x509.load_pem_x509_certificates(Path(name).read_bytes())
        return min(certificate.not_valid_after_utc.timestamp() for certificate in found)

    try:
        return {"cluster": end(settings.cert_file), "cluster_authority": end(settings.ca_file)}
    except (OSError, ValueError) as error:
        names = f"`cluster.cert_file` {settings.cert_file!r} and `cluster.ca_file` {settings.ca_file!r}"
        raise MembershipUnusable(f"{names} cannot be read: {error}") from None


def _load(context: ssl.SSLContext, settings: ClusterSettings) -> None:
    try:
        context.load_cert_chain(settings.cert_file, settings.key_file, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        names = f"`cluster.cert_file` {settings.cert_file!r} and `cluster.key_file` {settings.key_file!r}"
        raise MembershipUnusable(f"{names} cannot be used: {error}") from None
    try:
        context.load_verify_locations(settings.ca_file)
    except (OSError, ValueError) as error:
        raise MembershipUnusable(f"`cluster.ca_file` {settings.ca_file!r} cannot be used: {error}") from None


def _no_password() -> str:
    """For OpenSSL, which would ask the terminal for it."""
    raise ValueError("the key is encrypted (allowed: one without a password)")
