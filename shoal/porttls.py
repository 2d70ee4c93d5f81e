"""TLS of a port that strangers may reach: who is admitted (`shoal.guests`) has a short time to shake hands.

The certificate is read again when its files change, so that a renewed one needs no restart.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import cast

import structlog

from shoal.files import FileState, file_state
from shoal.guests import Guest, Guests, Relay

log = structlog.get_logger()

_HANDSHAKE_SECONDS, _GOODBYE_SECONDS = 5.0, 2.0


class CertificateUnusable(Exception):
    """A certificate or its key cannot be used. The text names the files."""


class PortCertificate:
    """A certificate with its chain, and its key, in files (PEM)."""

    def __init__(self, cert_file: str, key_file: str) -> None:
        """Raises `CertificateUnusable`."""
        if not key_file:
            raise CertificateUnusable(f"the certificate {cert_file!r} needs its key: set `key_file` beside `cert_file`")
        self._cert, self._key = Path(cert_file).expanduser(), Path(key_file).expanduser()
        self._seen = self._states()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """For a connection that begins now; with the certificate of before where the files cannot be used any more."""
        states = self._states()
        if states != self._seen:
            self._seen = states
            try:
                self._context = self._load()
                log.info("operations.certificate_read", file=str(self._cert))
            except CertificateUnusable as error:
                log.error("operations.certificate_unusable", error=str(error))
        return self._context

    def _states(self) -> tuple[FileState | None, FileState | None]:
        return file_state(self._cert), file_state(self._key)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._cert, self._key, password=_no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise CertificateUnusable(
                f"the certificate {str(self._cert)!r} with the key {str(self._key)!r} cannot be used: {error}"
            ) from None
        return context


class PortTls:
    """Makes the protocols of admitted connections: a handshake, and then what `make` gives. An async context manager
    that ends handshakes which are not done."""

    def __init__(self, guests: Guests, certificate: PortCertificate, make: Callable[[], asyncio.BaseProtocol]) -> None:
        self._guests = guests
        self._certificate = certificate
        self._make = make
        self._shaking: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> None:
        """Nothing is to be prepared."""

    async def __aexit__(self, *_: object) -> None:
        for task in self._shaking:
            task.cancel()
        await asyncio.gather(*self._shaking, return_exceptions=True)

    def protocol(self, guest: Guest) -> asyncio.BaseProtocol:
        """The protocol of a connection that was admitted."""
        return _Stranger(lambda stranger: self._begin(guest, stranger))

    def _begin(self, guest: Guest, stranger: _Stranger) -> None:
        task = asyncio.create_task(self._shake(guest, stranger), name="TLS handshake")
        self._shaking.add(task)
        task.add_done_callback(self._shaking.discard)

    async def _shake(self, guest: Guest, stranger: _Stranger) -> None:
        transport = stranger.transport
        inner = _Secured(lambda: self._guests.leave(guest), cast("asyncio.Protocol", self._make()))
        secured: asyncio.Transport | None = None
        try:
            loop = asyncio.get_running_loop()
            loop.call_soon(stranger.hand_over)  # when the handshake has the transport, and has read nothing yet
            secured = await loop.start_tls(
                transport,
                inner,
                self._certificate.context(),
                server_side=True,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_GOODBYE_SECONDS,
            )
        except OSError as error:  # TimeoutError and ssl.SSLError are OSErrors
            log.debug("operations.no_tls", reason=str(error) or type(error).__name__)
        finally:
            if secured is None:
                self._guests.leave(guest)
                transport.abort()
        if secured is not None:
            inner.connection_made(secured)


class _Stranger(asyncio.Protocol):
    """A connection before its handshake, which keeps what comes for that: uvloop reads before a connection can be
    paused, and who says hello at once would not be heard."""

    transport: asyncio.Transport

    def __init__(self, begin: Callable[[_Stranger], None]) -> None:
        self._begin = begin
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._begin(self)

    def data_received(self, data: bytes) -> None:
        self._early += data

    def hand_over(self) -> None:
        """Give what has come to the protocol that the transport has now."""
        protocol = cast("asyncio.BufferedProtocol", self.transport.get_protocol())
        while self._early:
            buffer = memoryview(protocol.get_buffer(len(self._early)))
            taken = min(len(buffer), len(self._early))
            buffer[:taken] = self._early[:taken]
            protocol.buffer_updated(taken)
            self._early = self._early[taken:]


class _Secured(Relay):
    """A connection behind its handshake: passes on to a protocol what happens to it."""

    def __init__(self, left: Callable[[], None], protocol: asyncio.Protocol) -> None:
        self._left = left
        self._protocol = protocol
        self._is_made = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._is_made = True
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._left()
        if self._is_made:
            self._protocol.connection_lost(exc)


def _no_password() -> str:
    """For OpenSSL, which would ask the terminal for it."""
    raise ValueError("the key is encrypted (allowed: one without a password)")
