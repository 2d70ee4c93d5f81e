"""The configuration: whether it can be used, and the cluster's secret or certificates that it names."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from peer.settings import PeerSettings
from shoal.cli.doctor.subject import Subject
from shoal.cli.finding import Finding
from shoal.cluster import ClusterSettings, Exposed
from shoal.fields import from_here
from shoal.membership import Membership, MembershipUnusable
from shoal.units import format_age

_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses that no machine has (RFC 5737, RFC 3849), on the way to the internet."""
_SOON_SECONDS = 14 * 86_400.0
"""How long before the end of a certificate people are told of it."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate of the cluster's, by the key of the configuration that names its file. Times in seconds since the
    epoch."""

    key: str
    file: str
    begins: float
    ends: float


@dataclass(frozen=True, slots=True)
class Means:
    """By what members of the cluster are known. `fault` says why that cannot be used, `hidden` that this user may not
    read it."""

    fault: str = ""
    hidden: bool = False
    exposed: str = ""
    """Why the daemon would not start with its port open to others."""
    public: str = ""
    """An address of the internet, at which everybody may be a member; empty where there is none."""
    certificates: tuple[Certificate, ...] = ()


def judge_configuration(means: Means, now: float) -> list[Finding]:
    """What the cluster's part of the configuration means."""
    if means.hidden:
        text = f"What members know each other by could not be seen: {means.fault}."
        return [Finding("cluster-unseen", "warning", text, "Run `shoal doctor` as root or as the daemon's user.")]
    if means.fault:
        remedy = (
            "Put that right, readable for the daemon's user: the same secret on all nodes of the cluster, or "
            "certificates of one authority, each with the key that belongs to it."
        )
        return [Finding("cluster-unusable", "error", f"The daemon cannot start: {means.fault}.", remedy)]
    found = [each for certificate in means.certificates for each in _judge_certificate(certificate, now)]
    if means.exposed:
        remedy = (
            "Set `cluster.secret_file` to a file with the same secret on all nodes (`openssl rand -hex 32` makes one), "
            "or `cluster.insecure = true` where everybody who reaches the port may be a member."
        )
        found.append(Finding("cluster-exposed", "error", f"The daemon cannot start: {means.exposed}", remedy))
    if means.public:
        text = f"`cluster.insecure` lets everybody be a member who reaches {means.public}, an address of the internet."
        remedy = (
            "Set `cluster.secret_file` to a file with the same secret on all nodes (`openssl rand -hex 32` makes one) "
            "and take `cluster.insecure` away, or have a firewall let the peer port be reached by your nodes alone."
        )
        found.append(Finding("cluster-open", "warning", text, remedy))
    return found or [Finding("configuration-good", "ok", "The configuration can be used.")]


def _judge_certificate(certificate: Certificate, now: float) -> list[Finding]:
    named = f"{certificate.file} (`{certificate.key}`)"
    remedy = f"Put a new certificate of the cluster's authority at {certificate.file}; daemons read it by themselves."
    if certificate.key == "cluster.ca_file":
        remedy = (
            "Make the authority's own certificate anew with the same key, so that those of nodes stay good, and put it "
            f"at {certificate.file} on all nodes; daemons read it by themselves."
        )
    if certificate.begins > now:
        text = f"The certificate {named} is not good before {_date(certificate.begins)}."
        remedy = f"Set this machine's clock, or put a certificate that is good now at {certificate.file}."
        return [Finding("certificate-too-early", "error", text, remedy)]
    if certificate.ends <= now:
        text = f"The certificate {named} has expired on {_date(certificate.ends)}: no member takes it."
        return [Finding("certificate-expired", "error", text, remedy)]
    if certificate.ends - now < _SOON_SECONDS:
        text = f"The certificate {named} expires in {format_age(certificate.ends - now)}."
        return [Finding("certificate-expires", "warning", text, remedy)]
    return []


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


async def examine(subject: Subject) -> list[Finding]:
    """The part of the report."""
    means = await asyncio.to_thread(_means, subject)
    return judge_configuration(means, datetime.now(UTC).timestamp())


def _means(subject: Subject) -> Means:
    cluster = subject.configuration.cluster
    try:
        Membership(cluster)
    except MembershipUnusable as error:
        files = [cluster.secret_file, cluster.cert_file, cluster.key_file, cluster.ca_file]
        hidden = os.geteuid() != 0 and any(file and not os.access(file, os.R_OK) for file in files)
        return Means(str(error), hidden and all(_may_exist(file) for file in files if file))
    exposed = ""
    try:
        cluster.check_host("peer.host", subject.configuration.peer.host)
    except Exposed as error:
        exposed = str(error).partition("\n")[0]
    public = _public_address(subject.configuration.peer) if cluster.insecure else ""
    return Means(exposed=exposed, public=public, certificates=tuple(_certificates(cluster)))


def _public_address(peer: PeerSettings) -> str:
    """An address of the internet at which others reach this peer; empty where none is seen."""
    hosts = [peer.advertise, peer.host]
    if from_here(peer.host) != peer.host:
        hosts += [_own_address(family, place) for family, place in _ELSEWHERE.items()]
    return next((host for host in hosts if _is_public(host)), "")


def _own_address(family: socket.AddressFamily, place: str) -> str:
    """This machine's address towards another place, to which nothing is sent; empty where there is no way."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((place, 9))
        except OSError:
            return ""
        return str(sock.getsockname()[0])


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def _may_exist(file: str) -> bool:
    """Whether a file is there, or lies where this user may not look."""
    try:
        Path(file).stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _certificates(cluster: ClusterSettings) -> list[Certificate]:
    if not cluster.uses_tls:
        return []
    from cryptography import x509  # takes a while to import

    found = []
    for key in ("cert_file", "ca_file"):
        file = getattr(cluster, key)
        certificate = x509.load_pem_x509_certificate(Path(file).read_bytes())
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        found.append(Certificate(f"cluster.{key}", file, begins.timestamp(), ends.timestamp()))
    return found
