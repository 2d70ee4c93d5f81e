"""A cluster's own authority and a certificate of it, made with openssl as docs/security.md tells people to."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

PROGRAM = "openssl"

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]


def certified_members(folder: Path) -> dict[str, str]:
    """Settings of daemons that know each other by mutual TLS, all by one certificate for 127.0.0.1."""
    folder.mkdir()
    _openssl(folder, ["req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=cluster"])
    signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1"]
    own = ["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "node.key", "-out", "node.crt"]
    _openssl(folder, ["req", "-x509", *_KEY, *signed, *own, "-subj", "/CN=node"])
    files = {"CERT_FILE": "node.crt", "KEY_FILE": "node.key", "CA_FILE": "ca.crt"}
    return {f"SHOAL_CLUSTER__{key}": str(folder / name) for key, name in files.items()}


def _openssl(folder: Path, arguments: Sequence[str]) -> None:
    subprocess.run([PROGRAM, *arguments], cwd=folder, check=True, capture_output=True)
