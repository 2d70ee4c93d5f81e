"""`shoal config ca` as people meet it."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from tests.cli.conftest import Shoal


def test_the_authority_is_made_once_and_shown(shoal: Shoal, tmp_path: Path) -> None:
    settings = {"SHOAL_PROXY__TUNNEL__CA": str(tmp_path / "ca")}
    first = shoal("config", "ca", **settings)
    assert (first.code, first.err) == (0, "")
    certificate = x509.load_pem_x509_certificate(first.out.encode())
    assert first.out == (tmp_path / "ca/ca.crt").read_text()
    described = shoal("config", "ca", "--json", "--upstream", "quay.io=https://quay.io", **settings).told
    assert described["path"] == str(tmp_path / "ca/ca.crt")
    assert described["expires"] == certificate.not_valid_after_utc.isoformat()
    assert described["hosts"] == ["quay.io", "registry-1.docker.io"]
    assert described["trust"]["docker"][0] == "/etc/docker/certs.d/quay.io/ca.crt"
    assert shoal("config", "ca", **settings).out == first.out


def test_an_authority_that_cannot_be_used_is_one_line(shoal: Shoal, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    (tmp_path / "ca.key").write_text("no key")
    done = shoal("config", "ca", SHOAL_PROXY__TUNNEL__CA=str(tmp_path))
    assert done.code == 1
    assert str(tmp_path) in done.err
    assert "Traceback" not in done.err


def test_the_authority_does_not_lie_in_the_store(shoal: Shoal, tmp_path: Path) -> None:
    done = shoal("config", "ca", SHOAL_PROXY__TUNNEL__CA=f"{tmp_path}/store/ca", SHOAL_PEER__STORE=f"{tmp_path}/store")
    assert done.code == 2
    assert "must not lie in the store" in done.err
