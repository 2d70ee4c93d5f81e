"""A certificate authority of the tests' own."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shoal.cluster import ClusterSettings

_VALID = datetime.timedelta(days=2)


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as files (PEM) and as they are."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    certificate_file: Path
    key_file: Path

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)


class Authority:
    """Signs certificates; who trusts `file` trusts them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._own = self._make("authority", issuer=None)

    @property
    def file(self) -> Path:
        """Its own certificate (PEM)."""
        return self._own.certificate_file

    def members(self, name: str) -> ClusterSettings:
        """Of a node that knows the members of its cluster by certificates of this authority."""
        made = self.issue(name)
        return ClusterSettings(
            cert_file=str(made.certificate_file), key_file=str(made.key_file), ca_file=str(self.file)
        )

    def issue(self, name: str) -> Certificate:
        """A certificate for a host: a DNS name or an address."""
        return self._make(name, issuer=self._own)

    def _make(self, name: str, issuer: Certificate | None) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _named(name)
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _VALID)
            .not_valid_after(now + _VALID)
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_alternative(name)]), critical=False)
        )
        certificate = builder.sign(issuer.key if issuer else key, hashes.SHA256())
        made = Certificate(certificate, key, self._folder / f"{name}.crt", self._folder / f"{name}.key")
        made.certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        made.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return made


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
