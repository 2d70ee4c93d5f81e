"""The node's own certificate authority, and the certificates that it makes for hosts whose requests are opened.

The authority is two files of a folder: `ca.crt`, which clients are to trust, and `ca.key`, which nobody else may read.
It lives for ten years. To renew it, move both files away, let `shoal config ca` make new ones, and give the new
`ca.crt` to the clients before the daemon starts again.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import secrets
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.errors import AuthorityUnusable
from shoal.recent import Recent

log = structlog.get_logger()

CERTIFICATE_FILE, KEY_FILE = "ca.crt", "ca.key"
CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=7)
LEAF_RENEWAL = timedelta(days=1)
"""So long before its end a host's certificate is made again."""

EXPIRY_WARNING = timedelta(days=60)
"""So long before its end people are told of the authority's."""

_CLOCK_SKEW = timedelta(hours=1)
"""Certificates are good from a little earlier on: clocks of clients differ."""

_MAX_CONTEXTS = 256
_MAX_COMMON_NAME = 64

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class AuthorityFiles:
    """The authority's folder."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / CERTIFICATE_FILE

    @property
    def key(self) -> Path:
        return self.folder / KEY_FILE

    def open(self, clock: Clock = _now) -> CertificateAuthority:
        """The authority that is there, else a new one; raises `AuthorityUnusable`."""
        try:
            if not self.certificate.exists():
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
                with _locked(self.folder):  # another process may have been first
                    if not self.certificate.exists():
                        self._make(clock())
            return self._load(clock)
        except OSError as error:
            raise AuthorityUnusable(f"the certificate authority in {self.folder}: {error}") from None

    def _make(self, now: datetime) -> None:
        """The certificate is written last: a key without one has never signed anything."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _authority_certificate(key, now)
        _write(self.key, _pem(key), 0o600)
        _write(self.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)

    def _load(self, clock: Clock) -> CertificateAuthority:
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            key = serialization.load_pem_private_key(self.key.read_bytes(), password=None)
        except FileNotFoundError:
            raise AuthorityUnusable(
                f"{self.key} is missing: put it back, or move {self.certificate} away so that both are made anew"
            ) from None
        except (ValueError, TypeError) as error:
            raise AuthorityUnusable(f"the certificate authority in {self.folder} cannot be read: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise AuthorityUnusable(f"{self.key} is not the key of {self.certificate}")
        if self.key.stat().st_mode & 0o077:
            log.warning("tunnel.key_exposed", file=str(self.key), hint="nobody but its owner should read it: chmod 600")
        if certificate.not_valid_after_utc <= clock():
            raise AuthorityUnusable(
                f"{self.certificate} expired on {certificate.not_valid_after_utc:%Y-%m-%d}: move it and {self.key} "
                "away so that both are made anew, and let the clients trust the new one"
            )
        return CertificateAuthority(certificate, key, clock)


class CertificateAuthority:
    """Makes the certificates of hosts, and keeps those that it made last."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, clock: Clock = _now) -> None:
        self.certificate = certificate
        self._key = key
        self._clock = clock
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())  # one for all hosts, in memory alone
        self._contexts: Recent[str, tuple[ssl.SSLContext, datetime]] = Recent(_MAX_CONTEXTS)

    @property
    def pem(self) -> str:
        """What clients are to trust."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, as openssl writes it."""
        return self.certificate.fingerprint(hashes.SHA256()).hex(":").upper()

    @property
    def expires(self) -> datetime:
        return self.certificate.not_valid_after_utc

    @property
    def expires_soon(self) -> bool:
        """Whether it is time for a new one."""
        return self._clock() > self.expires - EXPIRY_WARNING

    def context(self, host: str) -> ssl.SSLContext:
        """What a server that stands for `host` (a name or an address) shows; raises `AuthorityUnusable`."""
        known = self._contexts.get(host)
        if known is not None and self._clock() < known[1]:
            self._contexts.move_to_end(host)
            return known[0]
        leaf = self.issue(host)
        context = _server_context(leaf, self.certificate, self._leaf_key)
        self._contexts.put(host, (context, leaf.not_valid_after_utc - LEAF_RENEWAL))
        return context

    def issue(self, host: str) -> x509.Certificate:
        """A certificate for `host`; raises `AuthorityUnusable` when the authority itself has expired."""
        now = self._clock()
        if now >= self.expires:
            raise AuthorityUnusable(f"the certificate authority expired on {self.expires:%Y-%m-%d}")
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(_name(host[:_MAX_COMMON_NAME]))
            .issuer_name(self.certificate.subject)
            .public_key(self._leaf_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(min(now + LEAF_LIFETIME, self.expires))
            .add_extension(x509.SubjectAlternativeName([_alternative(host)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(issuer_key, critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _authority_certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    # the random part keeps the authorities of nodes with the same host name apart
    subject = _name(f"Shoal CA of {socket.gethostname()[:40]} {secrets.token_hex(4)}")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server_context(
    leaf: x509.Certificate, authority: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    chain = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (leaf, authority))
    with contextlib.ExitStack() as stack:  # the ssl module reads files only; this one lies in memory
        descriptor = os.memfd_create("leaf")
        stack.callback(os.close, descriptor)
        os.write(descriptor, _pem(key) + chain)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    return context


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes, mode: int) -> None:
    """A whole file of these rights, or none."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
