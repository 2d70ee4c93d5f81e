"""The supernode: whether this node reaches it, by each of its addresses, and is taken for a member there."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass

import aiohttp
from yarl import URL

from peer.reachability import outcome_of
from shoal.cli.doctor.node import NodeAnswer
from shoal.cli.doctor.subject import Subject
from shoal.cli.finding import Finding
from shoal.fields import authority, is_loopback
from shoal.handshake import NotAMember
from shoal.membership import Membership, MembershipUnusable
from supernode.client import NotASupernode, prove
from supernode.protocol import NOT_SPOKEN, Outcome

_CONNECT_SECONDS = 2.5
_PROOF_SECONDS = 2.0
_NAME_SECONDS = 3.0
_MAX_ADDRESSES = 8

SAID = {
    Outcome.REFUSED: "nobody listens there",
    Outcome.SILENT: "there is no answer",
    Outcome.UNROUTED: "the network knows no way there",
    Outcome.UNRESOLVED: "the name has no address",
    Outcome.STRANGER: "what answers is no member of this cluster",
}
"""What came of a call, for people."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A connection to one of the supernode's addresses; `outcome` is a value of `Outcome`."""

    address: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of proving membership to the supernode: `kind` is empty where that was well, else `tls`, `foreign`,
    `stranger` or `silent`."""

    kind: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class SupernodeFacts:
    """The way from this node to its supernode."""

    url: str
    """Empty where the configuration names none."""
    resolved: str = ""
    """Why its name has no address; empty where it has some."""
    attempts: tuple[Attempt, ...] = ()
    proof: Proof | None = None
    """None where no address was reached."""


def judge_supernode(facts: SupernodeFacts, node: NodeAnswer) -> list[Finding]:
    """What is wrong between the node and its supernode."""
    if not facts.url:
        text = "No supernode is configured: this node pulls from origins alone, and shares nothing with others."
        remedy = "Set `peer.supernode` to the address of the cluster's supernode, such as `http://10.0.0.1:5090`."
        return [Finding("supernode-none", "warning", text, remedy)]
    found = _judge_way(facts)
    if found and not _is_partly(facts):
        return found
    found += _judge_loopback_name(facts)
    if facts.proof is not None and facts.proof.kind:
        return [*found, _judge_proof(facts.url, facts.proof)]
    return [*found, *_judge_connection(facts.url, node)]


def _is_partly(facts: SupernodeFacts) -> bool:
    return any(attempt.outcome == Outcome.REACHED for attempt in facts.attempts)


def _judge_way(facts: SupernodeFacts) -> list[Finding]:
    url = URL(facts.url)
    place = authority(url.host or "", url.port or 0)
    if facts.resolved:
        text = f"The supernode's name {url.host} has no address here: {facts.resolved}."
        remedy = (
            f"Make {url.host} known to this machine's name server or in /etc/hosts, or set `peer.supernode` to an "
            "address that all nodes reach."
        )
        return [Finding("supernode-name", "error", text, remedy)]
    failed = [attempt for attempt in facts.attempts if attempt.outcome != Outcome.REACHED]
    if not failed:
        return []
    shown = "; ".join(f"{attempt.address}: {SAID[attempt.outcome]}" for attempt in failed)
    if _is_partly(facts):
        good = ", ".join(each.address for each in facts.attempts if each.outcome == Outcome.REACHED)
        text = f"{place} has several addresses, and this node reaches {good} but not all of them ({shown})."
        remedy = (
            f"Take the addresses that do not answer out of the name {url.host}, or have the supernode listen there "
            "(`supernode.host`) and the firewall let them through."
        )
        return [Finding("supernode-partly-reached", "error", text, remedy)]
    if all(attempt.outcome == Outcome.REFUSED for attempt in failed):
        text = f"The supernode is not reached ({shown}): it is not running, or listens at another address or port."
        remedy = (
            f"On the supernode's machine start it (`systemctl start shoal-supernode`), with `supernode.host` "
            f"one that other machines reach and `supernode.port` {url.port}; or correct `peer.supernode`."
        )
        if is_loopback(url.host or ""):
            remedy = (
                f"{facts.url} means this machine itself: set `peer.supernode` to the address of the supernode that the "
                "other nodes use, or start one here with `shoal supernode`."
            )
        return [Finding("supernode-refused", "error", text, remedy)]
    if all(attempt.outcome == Outcome.UNROUTED for attempt in failed):
        text = f"The supernode is not reached from this node, though others may reach it ({shown})."
        address = failed[0].address.rpartition(":")[0].strip("[]")
        remedy = (
            f"Give this machine a way there, which `ip route get {address}` shows (an address of IPv6 needs IPv6 "
            "here), or set `peer.supernode` to an address that is reached from here, too."
        )
        return [Finding("supernode-silent", "error", text, remedy)]
    text = f"The supernode is not reached from this node, though others may reach it ({shown})."
    remedy = (
        f"Let TCP port {url.port} through every firewall between this node and {url.host}, or set `peer.supernode` to "
        "an address that is reached from here, too."
    )
    return [Finding("supernode-silent", "error", text, remedy)]


def _judge_loopback_name(facts: SupernodeFacts) -> list[Finding]:
    host = URL(facts.url).host or ""
    local = [each.address for each in facts.attempts if is_loopback(each.address.rpartition(":")[0])]
    if not local or is_loopback(host):
        return []
    text = f"The name {host} means {', '.join(local)} on this machine, so that others see this node as loopback."
    remedy = f"Take {host} out of the loopback lines of /etc/hosts, or set `peer.advertise` to this node's own address."
    return [Finding("supernode-name-loopback", "warning", text, remedy)]


def _judge_proof(url: str, proof: Proof) -> Finding:
    text = f"The supernode at {url} is no supernode to this node: {proof.text}."
    if proof.kind == "tls":
        remedy = (
            "Give both a certificate of the authority in `cluster.ca_file` that is good now and names the host in "
            "`peer.supernode`, and set `cluster.ca_file` to the same authority on all nodes."
        )
        return Finding("supernode-tls", "error", text, remedy)
    if proof.kind == "stranger":
        remedy = (
            "Make the secret in `cluster.secret_file` (or `cluster.secret`) the same on this node and on the supernode."
        )
        return Finding("supernode-stranger", "error", text, remedy)
    if proof.kind == "foreign":
        remedy = (
            "Correct `peer.supernode`: it takes the port of `supernode.port`, and `https://` where the cluster has "
            "certificates, `http://` where it has none."
        )
        return Finding("supernode-foreign", "error", text, remedy)
    remedy = "Look at the supernode's log and load; then restart it: the nodes come back by themselves."
    return Finding("supernode-stuck", "error", text, remedy)


def _judge_connection(url: str, node: NodeAnswer) -> list[Finding]:
    """What the daemon itself says, where nothing is wrong seen from here."""
    checkup = node.checkup
    if checkup is None:
        return [Finding("supernode-reached", "ok", f"The supernode answers at {url}.")]
    if checkup.supernode_connected:
        return [Finding("supernode-connected", "ok", f"The daemon is connected to the supernode at {url}.")]
    said = checkup.trouble_text or "it has not said why"
    if NOT_SPOKEN in said:
        text = f"The supernode is of another version: it says that {said}."
        remedy = "Bring supernode and nodes to one version of Shoal, the supernode first."
        return [Finding("supernode-version", "error", text, remedy)]
    if checkup.trouble == "stranger":
        text = f"The daemon and the supernode are no members of one cluster: {said}."
        remedy = (
            "Make `cluster` the same on both (`cluster.secret_file`, or certificates of one `cluster.ca_file`), and "
            "restart the daemon where it was started with another configuration."
        )
        return [Finding("supernode-stranger", "error", text, remedy)]
    if checkup.trouble == "refused":
        text = f"The supernode turns this node away: {said}."
        remedy = "Make `cluster` the same on both; else do what the supernode's log says about this node."
        return [Finding("supernode-turns-away", "error", text, remedy)]
    text = f"The supernode answers at {url}, and the daemon is not connected to it: {said}."
    remedy = "Wait a few seconds; where it stays so, restart the daemon (`systemctl restart shoal-peer`)."
    return [Finding("supernode-lost", "error", text, remedy)]


async def examine(subject: Subject) -> list[Finding]:
    """The part of the report."""
    node, facts = await asyncio.gather(subject.node(), _facts(subject))
    return judge_supernode(facts, node)


async def _facts(subject: Subject) -> SupernodeFacts:
    configuration = subject.configuration
    url = await subject.supernode()
    if not url:
        return SupernodeFacts("")
    parsed = URL(url)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_NAME_SECONDS):
            found = await loop.getaddrinfo(parsed.host, parsed.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # TimeoutError is one
        return SupernodeFacts(url, str(error) or "the name server does not answer")
    attempts = await asyncio.gather(*(_attempt(*each) for each in dict.fromkeys(found[:_MAX_ADDRESSES])))
    proof = None
    if any(attempt.outcome == Outcome.REACHED for attempt in attempts):
        try:
            membership = await asyncio.to_thread(Membership, configuration.cluster)
        except MembershipUnusable:
            return SupernodeFacts(url, attempts=tuple(attempts))  # which the part of the configuration tells
        proof = await _proof(url, membership)
    return SupernodeFacts(url, attempts=tuple(attempts), proof=proof)


async def _attempt(
    family: int, kind: int, protocol: int, _: str, address: tuple[str, int] | tuple[str, int, int, int]
) -> Attempt:
    shown = authority(address[0], address[1])
    with socket.socket(family, kind, protocol) as sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, address)
        except OSError as error:
            return Attempt(shown, outcome_of(error))
    return Attempt(shown, Outcome.REACHED)


async def _proof(url: str, membership: Membership) -> Proof:
    try:
        async with asyncio.timeout(_PROOF_SECONDS):
            await prove(url, membership)
    except NotASupernode as error:
        return Proof("foreign", str(error))
    except NotAMember as error:
        return Proof("stranger", str(error))
    except aiohttp.ClientConnectorCertificateError as error:
        return Proof("tls", getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error))
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        if "WRONG_VERSION_NUMBER" in str(error):
            return Proof("foreign", "it does not speak TLS, as `https://` has it")
        return Proof("tls", str(error))
    except TimeoutError:
        return Proof("silent", f"it says nothing within {_PROOF_SECONDS:g} s")
    except (aiohttp.ClientError, OSError) as error:
        return Proof("foreign", str(error))
    return Proof()
