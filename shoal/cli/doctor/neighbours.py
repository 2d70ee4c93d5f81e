"""Other nodes: whether they reach this one, and this one them."""

from __future__ import annotations

from proxy.checkup import Checkup, FailedCall, SilentNeighbour
from shoal.cli.doctor.node import NodeAnswer
from shoal.cli.doctor.subject import Subject
from shoal.cli.doctor.supernode import SAID
from shoal.cli.finding import Finding
from shoal.fields import authority, is_loopback
from shoal.units import format_age
from supernode.protocol import Outcome, Probed

_LATELY_SECONDS = 120.0
"""How long ago the last failure of a call may be to count: what is not needed any more is not called again."""
_REFUSALS = 2
"""How many in a row count: a node that has just ended is called once more."""
_SILENT_SECONDS = 600.0
"""How long ago a neighbour may have been silent last to count: pulls come now and then."""
_SILENCES = 2
"""How many in a row count: a node may stop for a moment, or end without a word."""
_MAX_SHOWN = 5


def judge_neighbours(node: NodeAnswer) -> list[Finding]:
    """What is wrong between this node and others."""
    checkup = node.checkup
    if checkup is None:
        text = "Whether other nodes reach this one could not be seen, since its daemon does not tell."
        return [Finding("neighbours-unseen", "warning", text, "Start the daemon and run `shoal doctor` again.")]
    if not checkup.particulars.supernode:
        return [Finding("neighbours-none", "ok", "Without a supernode there are no other nodes.")]
    found = _judge_probe(checkup, checkup.probe) if checkup.probe is not None else _judge_unprobed(checkup)
    return found + _judge_calls(checkup) + _judge_silence(checkup) + _judge_strangers(checkup)


def _judge_unprobed(checkup: Checkup) -> list[Finding]:
    text = "Whether other nodes reach this one could not be asked, since the supernode is not there or does not answer."
    remedy = "Do what is said of the supernode, and run `shoal doctor` again."
    if checkup.visitors:
        return [Finding("inbound-seen", "ok", f"{text} They did before: {checkup.visitors} calls have come.")]
    return [Finding("inbound-unseen", "warning", text, remedy)]


def _judge_probe(checkup: Checkup, probe: Probed) -> list[Finding]:
    place = authority(probe.host, probe.port)
    if is_loopback(probe.host) and probe.elsewhere:
        text = (
            f"Other nodes are told to find this one at {place}, which means themselves to them: this node reaches its "
            "supernode by loopback."
        )
        remedy = (
            "Set `peer.supernode` to the address that the other nodes use, or `peer.advertise` to an address of this "
            'machine that they reach, and `peer.host = "0.0.0.0"`.'
        )
        return [Finding("address-loopback", "error", text, remedy)]
    if not probe.calls:
        if probe.elsewhere:
            text = f"{probe.elsewhere} nodes at other hosts are there, and none has tried to reach this one in time."
            return [Finding("inbound-untried", "warning", text, "Run `shoal doctor` again in 10 s.")]
        return [Finding("neighbours-none", "ok", "No other node is there that could try to reach this one.")]
    failed = [call for call in probe.calls if call.outcome != Outcome.REACHED]
    if not failed:
        callers = ", ".join(call.host for call in probe.calls)
        return [Finding("inbound-open", "ok", f"Other nodes reach this one at {place}: {callers} did just now.")]
    shown = "; ".join(f"{call.host}: {SAID[call.outcome]}" for call in failed)
    outcomes = {call.outcome for call in failed}
    if len(failed) < len(probe.calls):
        text = f"Some nodes reach this one at {place}, and some do not ({shown})."
        remedy = f"Let TCP port {probe.port} through the firewalls and routes between this machine and those nodes."
        return [Finding("inbound-partly", "error", text, remedy)]
    if outcomes == {Outcome.STRANGER}:
        text = f"At {place}, where other nodes are told to find this one, somebody else answers them ({shown})."
        remedy = (
            "Set `peer.advertise` to an address of this machine that other nodes reach, and give each node behind one "
            "address its own `peer.port`; all nodes need the same `cluster` secret or authority."
        )
        return [Finding("inbound-stranger", "error", text, remedy)]
    if outcomes == {Outcome.UNRESOLVED}:
        text = f"Other nodes do not know the name {probe.host}, at which they are told to find this one ({shown})."
        remedy = "Set `peer.advertise` to an address of this machine, or to a name that all nodes can look up."
        return [Finding("address-unresolved", "error", text, remedy)]
    if outcomes == {Outcome.REFUSED}:
        text = f"Other nodes find nobody at {place}, where they are told to find this one ({shown})."
        remedy = (
            f'The daemon listens at {checkup.particulars.peer}: set `peer.host = "0.0.0.0"`; in a container use the '
            f"host's network or publish port {probe.port}, and set `peer.advertise` to the host's address; a firewall "
            "that rejects has to let that port through."
        )
        return [Finding("inbound-refused", "error", text, remedy)]
    text = f"Other nodes do not reach this one at {place} ({shown}): as a rule a firewall is between them."
    remedy = (
        f"Let TCP port {probe.port} (`peer.port`) in on this machine, for instance `ufw allow {probe.port}/tcp`, "
        f"`firewall-cmd --add-port={probe.port}/tcp` or a rule of the cloud's security group; where {probe.host} is an "
        "address inside a container or behind NAT, set `peer.advertise` to one that other nodes reach."
    )
    return [Finding("inbound-blocked", "error", text, remedy)]


def _judge_calls(checkup: Checkup) -> list[Finding]:
    """Calls of this node to others."""
    lately = [call for call in checkup.failed_calls if call.last < _LATELY_SECONDS]
    found: list[Finding] = []
    blocked = [call for call in lately if call.outcome in {Outcome.SILENT, Outcome.UNROUTED}]
    if blocked:
        text = f"This node does not reach {_shown(blocked)}: as a rule a firewall is between them."
        ports = ", ".join(map(str, sorted({call.port for call in blocked})))
        remedy = (
            f"Let TCP port {ports} (`peer.port`) out of this machine and in on those; `shoal doctor` there says more."
        )
        found.append(Finding("outbound-blocked", "error", text, remedy))
    refused = [call for call in lately if call.outcome == Outcome.REFUSED and call.times >= _REFUSALS]
    if refused:
        text = f"Nobody listens at {_shown(refused)}, where other nodes are said to be."
        remedy = "Run `shoal doctor` on those nodes: their `peer.host`, `peer.port` or `peer.advertise` is not right."
        found.append(Finding("outbound-refused", "warning", text, remedy))
    unresolved = [call for call in lately if call.outcome == Outcome.UNRESOLVED]
    if unresolved:
        text = f"This machine does not know the names of {_shown(unresolved)}."
        remedy = "Set `peer.advertise` on those nodes to addresses, or make their names known here."
        found.append(Finding("outbound-unresolved", "error", text, remedy))
    strangers = [call for call in lately if call.outcome == Outcome.STRANGER]
    if strangers:
        text = f"What answers at {_shown(strangers)} is not the member of this cluster that is said to be there."
        remedy = (
            "Make `cluster` the same on all nodes; set `peer.advertise` on those to an address that is theirs alone (a "
            "container bridge's is not), and give nodes behind one address their own `peer.port`."
        )
        found.append(Finding("outbound-stranger", "error", text, remedy))
    return found


def _judge_silence(checkup: Checkup) -> list[Finding]:
    """Of neighbours that connect, and of which no piece comes."""
    silent = [each for each in checkup.silent if each.last < _SILENT_SECONDS and each.times >= _SILENCES]
    if not silent:
        return []
    worst = max(silent, key=lambda each: each.times)
    text = (
        f"This node connects to {_hosts(silent)} and gets no piece: it has asked {worst.host} {worst.times} times in "
        f"{format_age(worst.since)}, and each pull waits for that. As a rule something on the way swallows large "
        "packets, since its MTU is smaller than that of the machines, and small ones pass."
    )
    remedy = (
        f"See what passes: `ping -M do -s 1472 {worst.host}` is answered where packets of 1500 bytes do. Set the MTU "
        "of both machines' interfaces to what passes, for instance `ip link set dev eth0 mtu 1400`, and let ICMP "
        f"through the firewalls. Where large packets pass, the node at {worst.host} hangs: run `shoal doctor` there."
    )
    return [Finding("neighbours-silent", "error", text, remedy)]


def _judge_strangers(checkup: Checkup) -> list[Finding]:
    if not checkup.turned_away:
        return []
    text = f"Somebody at {checkup.turned_away} has called this node lately and did not prove to be a member."
    remedy = (
        "Where that is a node of this cluster, make its `cluster.secret_file` or certificates the same as here; else "
        f"keep strangers away from the peer port ({checkup.particulars.peer})."
    )
    return [Finding("stranger-called", "warning", text, remedy)]


def _shown(calls: list[FailedCall]) -> str:
    names = [f"{authority(call.host, call.port)} (for {format_age(call.since)})" for call in calls[:_MAX_SHOWN]]
    more = f" and {len(calls) - _MAX_SHOWN} more" if len(calls) > _MAX_SHOWN else ""
    return ", ".join(names) + more


def _hosts(silent: list[SilentNeighbour]) -> str:
    """Where they are, the most silent first."""
    hosts = list(dict.fromkeys(each.host for each in sorted(silent, key=lambda each: -each.times)))
    more = f" and {len(hosts) - _MAX_SHOWN} more" if len(hosts) > _MAX_SHOWN else ""
    return ", ".join(hosts[:_MAX_SHOWN]) + more


async def examine(subject: Subject) -> list[Finding]:
    """The part of the report."""
    return judge_neighbours(await subject.node())
