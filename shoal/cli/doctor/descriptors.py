"""File descriptors: how many the daemon may have, and has."""

from __future__ import annotations

from peer.budget import MIN_DESCRIPTORS, Budget
from shoal.cli.doctor.node import NodeAnswer
from shoal.cli.doctor.subject import Subject
from shoal.cli.finding import Finding, Level

_ENOUGH = 4096
"""With as many, a node has 500 clients and 960 neighbours at a time, and half of what blobs it can use open."""
_TOO_FEW = 512
_NEARLY_ALL = 0.9

_REMEDY = (
    "Raise the limit: `LimitNOFILE=65536` in the daemon's unit (`systemctl edit shoal-peer`), "
    "`--ulimit nofile=65536:65536` for a container, or `ulimit -Hn 65536` before it is started by hand."
)


def judge_descriptors(node: NodeAnswer) -> list[Finding]:
    """What the daemon's limit means."""
    checkup = node.checkup
    if checkup is None:
        text = "How many file descriptors the daemon may have could not be seen, since it does not tell."
        return [Finding("descriptors-unseen", "warning", text, "Start the daemon and run `shoal doctor` again.")]
    used, most = checkup.descriptors, checkup.max_descriptors
    if used > _NEARLY_ALL * most:
        text = f"The daemon has {used} of its {most} file descriptors open: it turns clients and peers away."
        return [Finding("descriptors-used", "error", text, _REMEDY)]
    if most < _ENOUGH:
        budget = Budget.of(max(most, MIN_DESCRIPTORS))
        text = (
            f"The daemon may have {most} file descriptors: {budget.client_connections} clients, "
            f"{budget.peer_connections} neighbours and {budget.open_blobs} blobs on their way at a time."
        )
        level: Level = "error" if most < _TOO_FEW else "warning"
        return [Finding("descriptors-few", level, text, _REMEDY)]
    return [Finding("descriptors-enough", "ok", f"The daemon has {used} of {most} file descriptors open.")]


async def examine(subject: Subject) -> list[Finding]:
    """The part of the report."""
    return judge_descriptors(await subject.node())
