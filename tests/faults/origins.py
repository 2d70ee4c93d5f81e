"""Origins on bad days."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from tests.faults.clients import Image
from tests.faults.members import LOOPBACK, push_layers
from tests.faults.run import Run
from tests.faults.suite import fault
from tests.faults.world import MIB, SECOND
from tests.world.origin import ScriptedOrigin

_Harm = Callable[[Run, ScriptedOrigin], None]


def _truncates(run: Run, origin: ScriptedOrigin) -> None:
    origin.truncate = run.rng.randint(1, 2 * MIB)


def _sends_other_bytes(run: Run, origin: ScriptedOrigin) -> None:
    origin.corrupt = set(run.image.sizes)
    run.leaves_doubt = True


def _does_not_have_it(run: Run, origin: ScriptedOrigin) -> None:
    origin.status = 404


def _is_at_its_rate_limit(run: Run, origin: ScriptedOrigin) -> None:
    origin.refusals = [(429, {"Retry-After": "1"})] * run.rng.randint(1, 6)


def _fails_in_bursts(run: Run, origin: ScriptedOrigin) -> None:
    origin.refusals = [(500, {})] * run.rng.randint(1, 12)


def _ignores_ranges(run: Run, origin: ScriptedOrigin) -> None:
    origin.ignores_ranges = True


def _redirects_in_a_circle(run: Run, origin: ScriptedOrigin) -> None:
    origin.circles = True


def _hangs_before_headers(run: Run, origin: ScriptedOrigin) -> None:
    origin.silent = dict.fromkeys(run.image.sizes, 0)


def _hangs_in_mid_body(run: Run, origin: ScriptedOrigin) -> None:
    origin.stalls = [run.rng.randint(1, MIB) for _ in range(run.rng.randint(1, 4))]


def _closes_again_and_again(run: Run, origin: ScriptedOrigin) -> None:
    origin.closes_every = run.rng.randint(300_000, 2 * MIB)


def _trickles(run: Run, origin: ScriptedOrigin) -> None:
    origin.rate = run.rng.randint(20_000, 100_000)


_HARMS: tuple[tuple[_Harm, bool, bool], ...] = (
    (_truncates, True, True),
    (_sends_other_bytes, True, True),
    (_does_not_have_it, True, True),
    (_is_at_its_rate_limit, False, False),
    (_fails_in_bursts, False, False),
    (_ignores_ranges, False, False),
    (_redirects_in_a_circle, True, True),
    (_hangs_before_headers, True, True),
    (_hangs_in_mid_body, False, False),
    (_closes_again_and_again, False, False),
    (_trickles, False, True),
)
"""Each with whether an error is an answer to it, and whether it has to end for the image to come in time."""


def _behaves_badly(run: Run, harm: _Harm, *, may_refuse: bool, ends: bool) -> None:
    """From the beginning, or from somewhere in the pull on."""
    origin = run.world.scripted
    push_layers(run)
    run.may_refuse = may_refuse
    began = time.monotonic()
    from_the_start = run.rng.random() < 0.5
    if from_the_start:
        harm(run, origin)
    run.pull()
    try:
        if not from_the_start:
            run.wait_for_progress(run.rng.uniform(0.05, 0.6))
            harm(run, origin)
        if ends:
            run.lasts(0.5, 4.0)
        else:
            run.wait()
    finally:
        origin.rate = 0.0
        origin.behave()
        if may_refuse and not (from_the_start and harm is _hangs_before_headers):
            run.without_source(began)
    run.over()


for _harm, _may_refuse, _ends in _HARMS:
    fault(LOOPBACK, short_runs=int(_harm is not _trickles), name=f"origin{_harm.__name__}")(
        partial(_behaves_badly, harm=_harm, may_refuse=_may_refuse, ends=_ends)
    )


@fault(LOOPBACK)
def origin_expires_tokens_in_mid_blob(run: Run) -> None:
    """What was being sent breaks off, and the token is answered with 401, or with 400 as some registries do."""
    origin = run.world.scripted
    push_layers(run, 3 * MIB, 6 * MIB)
    origin.wants_tokens = True
    origin.stale_status = run.rng.choice((401, 400))
    try:
        run.pull()
        for share in sorted(run.rng.uniform(0.05, 0.9) for _ in range(3)):
            run.wait_for_progress(share)
            origin.expire()
        run.wait()
    finally:
        origin.wants_tokens = False
        origin.behave()


@fault(LOOPBACK)
def origin_moves_a_tag(run: Run) -> None:
    """While the image that it stood for is pulled: each client gets one of the two, whole."""
    push_layers(run)
    before = run.image
    pulls = run.pull(run.rng.choice(run.world.nodes))
    run.wait_for_progress(run.rng.uniform(0.05, 0.5), *pulls)
    run.push(run.rng.randint(MIB, 4 * MIB))
    moved = run.image
    run.world.scripted.tags[before.repository, "latest"] = moved.digest
    run.image = Image(before.repository, before.digest, before.sizes | moved.sizes, (moved.digest,))
    run.pull()
    run.wait()
    run.over()


@fault(LOOPBACK)
def origin_says_two_things_of_one_piece(run: Run) -> None:
    """It breaks off inside a piece, which comes again with other bytes."""
    origin = run.world.scripted
    run.push(2 * MIB)
    content = origin.contents[run.image.largest]
    origin.rate = 4 * MIB
    origin.lies = [(run.rng.randint(1, MIB), bytes(len(content))), (run.rng.randint(1, MIB), content)]
    run.may_refuse = True
    node = run.rng.choice(run.world.nodes)
    try:
        run.pull(node, node, node)
        run.wait()
    finally:
        origin.rate = 0.0
        origin.behave()


@fault(LOOPBACK, short_runs=0)
def origin_hangs_while_a_seed_lives(run: Run) -> None:
    """What the swarm has comes all the same."""
    origin = run.world.scripted
    push_layers(run)
    seed, *others = run.world.nodes
    run.pull(seed)
    run.wait()
    origin.silent = dict.fromkeys(run.image.sizes, 0)
    try:
        run.pull(*others)
        run.wait()
    finally:
        origin.behave()


def _has_a_bad_twin(run: Run, harm: _Harm) -> None:
    """Who names a bad place for a blob does not harm those who name a good one."""
    good, bad = run.world.scripted, run.world.second
    push_layers(run, 2 * MIB, 4 * MIB)
    image = run.image
    for digest in (image.digest, *image.sizes):
        bad.contents[digest] = good.contents[digest]
    bad.tags[image.repository, "latest"] = image.digest
    harm(run, bad)
    hopeful, *others = run.rng.sample(run.world.nodes, len(run.world.nodes))
    run.image = Image(f"{SECOND}/{image.repository}", image.digest, image.sizes)
    (pull,) = run.pull(hopeful)
    pull.may_refuse = True
    run.wait_for(lambda: sum(bad.requests.values()) > 1 or pull.ended_at)
    run.image = image
    run.pull(hopeful, *others)
    try:
        run.wait()
    finally:
        bad.behave()
        bad.contents.clear()
        bad.requests.clear()


for _harm in (_hangs_before_headers, _does_not_have_it, _truncates):
    fault(LOOPBACK, short_runs=int(_harm is _hangs_before_headers), name=f"one_of_two_origins{_harm.__name__}")(
        partial(_has_a_bad_twin, harm=_harm)
    )
