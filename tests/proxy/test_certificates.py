"""The node's own certificate authority."""

from __future__ import annotations

import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store
from structlog.testing import capture_logs

from proxy.certificates import (
    CA_LIFETIME,
    EXPIRY_WARNING,
    LEAF_LIFETIME,
    LEAF_RENEWAL,
    AuthorityFiles,
    CertificateAuthority,
)
from proxy.errors import AuthorityUnusable

NOW = datetime(2026, 6, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> CertificateAuthority:
    return AuthorityFiles(tmp_path / "ca").open(clock)


def test_it_is_made_once(tmp_path: Path) -> None:
    files = AuthorityFiles(tmp_path / "deep/ca")
    first = files.open()
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.certificate.stat().st_mode) == 0o644
    assert files.open().fingerprint == first.fingerprint
    assert sorted(path.name for path in files.folder.iterdir()) == ["ca.crt", "ca.key"]


def test_it_is_made_once_by_many_at_a_time(tmp_path: Path) -> None:
    files = AuthorityFiles(tmp_path / "ca")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: files.open().fingerprint, range(8)))
    assert len(set(made)) == 1


def test_what_it_is(authority: CertificateAuthority) -> None:
    certificate = authority.certificate
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert authority.expires == NOW + CA_LIFETIME


def verifies(authority: CertificateAuthority, host: str, leaf: x509.Certificate, at: datetime) -> bool:
    builder = PolicyBuilder().store(Store([authority.certificate])).time(at)
    try:
        builder.build_server_verifier(x509.DNSName(host)).verify(leaf, [])
    except x509.verification.VerificationError:
        return False
    return True


def test_a_certificate_is_good_for_its_host_and_its_days(authority: CertificateAuthority) -> None:
    leaf = authority.issue("registry.example")
    assert verifies(authority, "registry.example", leaf, NOW)
    assert not verifies(authority, "other.example", leaf, NOW)
    assert verifies(authority, "registry.example", leaf, NOW + LEAF_LIFETIME - timedelta(minutes=1))
    assert not verifies(authority, "registry.example", leaf, NOW + LEAF_LIFETIME + timedelta(minutes=1))


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_an_address_is_named_as_one(authority: CertificateAuthority, address: str) -> None:
    names = authority.issue(address).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name) for name in names.get_values_for_type(x509.IPAddress)] == [address]


def test_a_long_name_is_no_obstacle(authority: CertificateAuthority) -> None:
    host = ".".join(["a" * 60] * 4)
    assert verifies(authority, host, authority.issue(host), NOW)


def test_contexts_are_kept_until_shortly_before_the_end(authority: CertificateAuthority, clock: Clock) -> None:
    first = authority.context("registry.example")
    assert isinstance(first, ssl.SSLContext)
    assert authority.context("registry.example") is first
    assert authority.context("other.example") is not first
    clock.now += LEAF_LIFETIME - LEAF_RENEWAL
    assert authority.context("registry.example") is not first


def test_the_memory_of_contexts_is_bounded(authority: CertificateAuthority) -> None:
    first = authority.context("host-0.example")
    for number in range(1, 258):
        authority.context(f"host-{number}.example")
    assert authority.context("host-0.example") is not first


def test_no_certificate_outlives_the_authority(authority: CertificateAuthority, clock: Clock) -> None:
    clock.now = authority.expires - timedelta(days=2)
    assert authority.issue("registry.example").not_valid_after_utc == authority.expires
    clock.now = authority.expires
    with pytest.raises(AuthorityUnusable, match="expired on 2036"):
        authority.issue("registry.example")


def test_its_end_is_told_of_in_time(authority: CertificateAuthority, clock: Clock) -> None:
    assert not authority.expires_soon
    clock.now = authority.expires - EXPIRY_WARNING + timedelta(days=1)
    assert authority.expires_soon


def test_an_expired_authority_says_what_to_do(tmp_path: Path, clock: Clock) -> None:
    AuthorityFiles(tmp_path).open(clock)
    clock.now += CA_LIFETIME + timedelta(days=1)
    with pytest.raises(AuthorityUnusable, match=r"expired on .* made anew"):
        AuthorityFiles(tmp_path).open(clock)


def test_a_key_without_a_certificate_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "ca.key").write_text("half of a start that was cut off")
    assert AuthorityFiles(tmp_path).open().pem.startswith("-----BEGIN CERTIFICATE-----")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ca.key", None, r"ca\.key is missing"),
        ("ca.key", "no key", "cannot be read"),
        ("ca.crt", "no certificate", "cannot be read"),
    ],
)
def test_a_broken_authority_is_not_replaced_silently(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    AuthorityFiles(tmp_path).open()
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(AuthorityUnusable, match=message):
        AuthorityFiles(tmp_path).open()


def test_a_key_that_others_may_read_is_told_of(tmp_path: Path) -> None:
    files = AuthorityFiles(tmp_path)
    with capture_logs() as logs:
        files.open()
        assert logs == []
        files.key.chmod(0o640)
        files.open()
    assert [entry["event"] for entry in logs] == ["tunnel.key_exposed"]


def test_a_key_of_another_certificate_is_told(tmp_path: Path) -> None:
    AuthorityFiles(tmp_path / "one").open()
    AuthorityFiles(tmp_path / "two").open()
    (tmp_path / "one/ca.key").write_bytes((tmp_path / "two/ca.key").read_bytes())
    with pytest.raises(AuthorityUnusable, match="is not the key of"):
        AuthorityFiles(tmp_path / "one").open()
