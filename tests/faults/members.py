"""Processes that die or stand still in the middle of pulls, and come back."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from tests.faults.run import Run
from tests.faults.suite import fault
from tests.faults.world import MIB, Member, Shape
from tests.world.nodes import wait_until

LOOPBACK = Shape()
NETWORK = Shape(nodes=3, is_network=True)
_IN_FLIGHT = 24 * 256 * 1024
"""Bytes of the pieces that a node has asked for at a time, at most."""

_EGRESS_WITHOUT_SUPERNODE = 1.6
"""Copies that may leave an origin while nobody leads the swarm, of images that are small for that."""
_GIVES_SECONDS = 3.0
"""From a seed's start until it gives to those who had pulled from it."""

_How = Callable[[Run, Member], None]


def push_layers(run: Run, smallest: int = 1 * MIB, largest: int = 6 * MIB) -> None:
    """An image of some layers."""
    run.push(*(run.rng.randint(smallest, largest) for _ in range(run.rng.randint(1, 4))))


def _kill(run: Run, victim: Member) -> None:
    """And start it again, after a while."""
    victim.kill()
    run.harmed(victim)
    run.lasts(0.0, 1.5)
    victim.start()


def _freeze(run: Run, victim: Member) -> None:
    """Until all others have what they want."""
    began = time.monotonic()
    node = run.world.nodes[run.world.members.index(victim)]
    victim.freeze()
    try:
        others = [pull for pull in run.pulls if pull.node is not node]
        ended = run.wait_for(lambda: all(pull.ended_at for pull in others), 40.0)
        run.expect(ended, "the others end while it stands still")
    finally:
        victim.thaw()
        run.harmed(victim)
        run.without_source(began, node)


def _streams(run: Run) -> list[Member]:
    """Nodes that fetch from the origin now."""
    return [
        member
        for member, node in zip(run.world.members, run.world.nodes, strict=True)
        if node.counted("shoal_origin_streams") > 0
    ]


def _downloader(run: Run, how: _How) -> None:
    """One that fetches nothing from the origin: the whole image is at another one."""
    push_layers(run, 2 * MIB, 4 * MIB)
    run.pull(run.world.nodes[0])
    run.wait()
    pulls = run.pull(*run.world.nodes[1:])
    run.wait_for_progress(run.rng.uniform(0.05, 0.8), *pulls)
    how(run, run.rng.choice(run.world.members[1:]))


def _leaseholder(run: Run, how: _How) -> None:
    push_layers(run)
    run.pull()
    run.wait_for_progress(run.rng.uniform(0.05, 0.8))
    how(run, run.rng.choice(_streams(run) or run.world.members))


def _leaseholder_before_its_first_byte(run: Run, how: _How) -> None:
    push_layers(run)
    run.world.scripted.delay = 1.5
    run.pull()
    run.wait_for(lambda: _streams(run), 3.0)
    victim = run.rng.choice(_streams(run) or run.world.members)
    run.world.scripted.delay = 0.0
    how(run, victim)


def _only_seed(run: Run, how: _How) -> None:
    push_layers(run, 4 * MIB, 6 * MIB)
    run.pull(run.world.nodes[0])
    run.wait()
    pulls = run.pull(*run.world.nodes[1:])
    run.wait_for_progress(run.rng.uniform(0.05, 0.5), *pulls)
    how(run, run.world.members[0])


for _ending, _how in (("is_killed", _kill), ("stands_still", _freeze)):
    fault(NETWORK, short_runs=0, name=f"downloader_{_ending}")(partial(_downloader, how=_how))
    fault(LOOPBACK, runs=5, name=f"leaseholder_{_ending}")(partial(_leaseholder, how=_how))
    fault(LOOPBACK, short_runs=int(_how is _kill), name=f"leaseholder_before_its_first_byte_{_ending}")(
        partial(_leaseholder_before_its_first_byte, how=_how)
    )
    fault(NETWORK, runs=5, short_runs=int(_how is _freeze), name=f"only_seed_{_ending}")(partial(_only_seed, how=_how))


@fault(NETWORK, short_runs=0)
def killed_seed_gives_again(run: Run) -> None:
    """At once, when it is back."""
    run.push(20 * MIB)
    seed, *others = run.world.nodes
    run.pull(seed)
    run.wait()
    pulls = run.pull(*others)
    run.wait_for_progress(run.rng.uniform(0.1, 0.3), *pulls)
    run.world.members[0].kill()
    run.world.members[0].start()
    began = time.monotonic()
    gave = run.wait_for(
        lambda: seed.counted("shoal_upload_bytes_total") > 0 or any(pull.ended_at for pull in pulls),
        _GIVES_SECONDS,
    )
    run.note(f"gave after {time.monotonic() - began:.2f} s")
    run.expect(gave, f"it gives nothing {_GIVES_SECONDS:g} s after its start")


@fault(LOOPBACK)
def restarted_node_fetches_what_was_in_flight(run: Run) -> None:
    """And nothing that was there before it was killed."""
    run.push(24 * MIB)
    at_start = [node.received("origin") + node.received("peer") for node in run.world.nodes]
    run.pull()
    run.wait_for_progress(run.rng.uniform(0.4, 0.7))
    place = run.rng.randrange(len(run.world.nodes))
    node, victim = run.world.nodes[place], run.world.members[place]
    before = node.received("origin") + node.received("peer") - at_start[place]
    victim.kill()
    run.harmed(victim)
    victim.start()
    (again,) = run.pull(node)
    wait_until(lambda: again.ended_at is not None, "it has the image")
    fetched = node.received("origin") + node.received("peer")
    most = run.image.size - before + _IN_FLIGHT
    run.note(f"had {before / MIB:.1f} MiB, fetched {fetched / MIB:.1f} MiB after the restart")
    run.expect(fetched <= most, f"{fetched:.0f} bytes fetched again, at most {most:.0f} were to be")


@fault(LOOPBACK, runs=5)
def supernode_is_killed(run: Run) -> None:
    """And comes back, sometimes only when the pulls have ended."""
    push_layers(run, 3 * MIB, 8 * MIB)
    run.pull()
    run.wait_for_progress(run.rng.uniform(0.0, 0.8))
    run.world.tracker.kill()
    if run.rng.random() < 0.3:
        run.wait()
    else:
        run.lasts(0.0, 3.0)
    run.world.tracker.start()
    run.world.wait_until_joined()
    run.over()
    run.wait()
    sent = run.world.scripted.sent
    egress = sum(sent[digest] for digest in run.image.sizes) / run.image.size
    run.note(f"egress {egress:.2f}")
    run.expect(egress <= _EGRESS_WITHOUT_SUPERNODE, f"{egress:.2f} copies have left the origin")


@fault(LOOPBACK, short_runs=0)
def supernode_stands_still(run: Run) -> None:
    """For as long as the pulls take without it."""
    push_layers(run, 3 * MIB, 8 * MIB)
    run.pull()
    run.wait_for_progress(run.rng.uniform(0.0, 0.8))
    run.world.tracker.freeze()
    try:
        run.wait()
    finally:
        run.world.tracker.thaw()
    run.world.wait_until_joined()
    run.over()


def _have_no_origin(
    run: Run, begin: Callable[[], object], end: Callable[[], object], least: float, most: float
) -> None:
    """In mid-pull, for `least` to `most` seconds."""
    push_layers(run, 2 * MIB, 4 * MIB)
    run.pull()
    run.wait_for_progress(run.rng.uniform(0.0, 0.8))
    run.may_refuse = True
    begin()
    began = time.monotonic()
    run.lasts(least, most)
    end()
    run.without_source(began)
    run.over()


@fault(NETWORK, short_runs=0)
def origin_is_killed(run: Run) -> None:
    """What one node has got the others get from it; else clients hear an error, or wait while there is hope."""
    _have_no_origin(run, run.world.origin.kill, run.world.origin.start, 1.0, 6.0)


@fault(NETWORK, short_runs=0)
def origin_stands_still(run: Run) -> None:
    """It takes connections and says nothing more."""
    _have_no_origin(run, run.world.origin.freeze, run.world.origin.thaw, 2.0, 8.0)
