"""`shoal config ca` as people meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from cryptography import x509


def shoal(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal.cli", *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


def test_the_authority_is_made_once_and_shown(tmp_path: Path) -> None:
    settings = {"SHOAL_PROXY__TUNNEL__CA": str(tmp_path / "ca")}
    first = shoal("config", "ca", **settings)
    assert (first.returncode, first.stderr) == (0, "")
    certificate = x509.load_pem_x509_certificate(first.stdout.encode())
    assert first.stdout == (tmp_path / "ca/ca.crt").read_text()
    described = json.loads(shoal("config", "ca", "--json", "--upstream", "quay.io=https://quay.io", **settings).stdout)
    assert described["path"] == str(tmp_path / "ca/ca.crt")
    assert described["expires"] == certificate.not_valid_after_utc.isoformat()
    assert described["hosts"] == ["quay.io", "registry-1.docker.io"]
    assert described["trust"]["docker"][0] == "/etc/docker/certs.d/quay.io/ca.crt"
    assert shoal("config", "ca", **settings).stdout == first.stdout


def test_an_authority_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    (tmp_path / "ca.key").write_text("no key")
    done = shoal("config", "ca", SHOAL_PROXY__TUNNEL__CA=str(tmp_path))
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_the_authority_does_not_lie_in_the_store(tmp_path: Path) -> None:
    done = shoal("config", "ca", SHOAL_PROXY__TUNNEL__CA=f"{tmp_path}/store/ca", SHOAL_PEER__STORE=f"{tmp_path}/store")
    assert done.returncode == 2
    assert "must not lie in the store" in done.stderr


def test_rules_that_cannot_be_read_stop_the_start(tmp_path: Path) -> None:
    settings = {"SHOAL_PROXY__ADMISSION__FILE": f"{tmp_path}/rules.toml", "SHOAL_PEER__STORE": f"{tmp_path}/store"}
    done = shoal("peer", **settings)
    assert done.returncode == 2
    assert f"{tmp_path}/rules.toml: cannot be read" in done.stderr
