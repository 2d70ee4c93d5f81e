"""Members of the swarm that are slow, or lie to their neighbours and to the supernode."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from functools import partial

from bench.netns import BURST, QUEUE
from tests.faults.members import LOOPBACK, NETWORK, push_layers
from tests.faults.run import Run
from tests.faults.suite import fault
from tests.faults.world import LINK, MIB
from tests.world.liar import Liar, Says
from tests.world.swarm import UPSTREAM

_SLOW = 1_000_000
_MOST_EGRESS = 1.8
"""Copies of a layer that may leave the origin because of one liar."""


def _lies(run: Run, says: Says, *, tells_digests: bool = True) -> None:
    image = run.push(run.rng.randint(4 * MIB, 12 * MIB))
    content = run.world.scripted.contents[image.largest]
    with ExitStack() as stack:
        liar = Liar(content, says, tells_digests)
        liar.start(run.world.supernode.port, stack)
        run.pull()
        run.wait()
    run.note(f"{liar.asked} requests to the liar")
    _expect_little_egress(run)


def _expect_little_egress(run: Run) -> None:
    layer = run.image.largest
    egress = run.world.scripted.sent[layer] / run.image.sizes[layer]
    run.note(f"egress {egress:.2f}")
    run.expect(egress <= _MOST_EGRESS, f"{egress:.2f} copies have left the origin")


for _says in Says:
    _name = _says.name.lower()
    _short = int(_says in (Says.NOTHING, Says.ABSENT, Says.WRONG_BYTES))
    fault(LOOPBACK, short_runs=_short, name=f"peer_answers_{_name}")(partial(_lies, says=_says))
fault(LOOPBACK, short_runs=0, name="peer_claims_without_digests")(
    partial(_lies, says=Says.NOTHING, tells_digests=False)
)


@fault(LOOPBACK)
def leaseholder_reports_false_digests(run: Run) -> None:
    """And gives pieces that match them, so that the whole blob turns out to be wrong."""
    image = run.push(run.rng.randint(6 * MIB, 12 * MIB))
    content = run.world.scripted.contents[image.largest]
    with ExitStack() as stack:
        liar = Liar(content, Says.WRONG_BYTES, leases_at=(UPSTREAM, image.repository))
        liar.start(run.world.supernode.port, stack)
        run.may_refuse = run.leaves_doubt = True
        run.pull()
        run.wait()
    run.note(f"{liar.leased} pieces reported falsely, {liar.asked} requests to the liar")


@fault(NETWORK, short_runs=0)
def peer_is_slow(run: Run) -> None:
    """Its link has 1 Mbit/s: neither is it waited for by the others, nor starved by them."""
    network = run.world.network
    assert network is not None
    place = run.rng.randrange(len(run.world.nodes))
    host = network.hosts[2 + place]
    _shape(host.namespace, _SLOW)
    try:
        push_layers(run, MIB // 2, MIB)
        others = [node for node in run.world.nodes if node is not run.world.nodes[place]]
        pulls = run.pull(*others)
        run.pull(run.world.nodes[place])
        run.expect(run.wait_for(lambda: all(pull.ended_at for pull in pulls), 15.0), "the others do not wait for it")
    finally:
        _shape(host.namespace, LINK)
    run.note(f"sizes {json.dumps(list(run.image.sizes.values()))}")


def _shape(namespace: str, rate: int) -> None:
    """What leaves a host."""
    shape = ("tbf", "rate", f"{rate}bit", "burst", BURST, "latency", QUEUE)
    subprocess.run(["tc", "-n", namespace, "qdisc", "change", "dev", "eth0", "root", *shape], check=True)
