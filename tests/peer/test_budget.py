"""What a node may hold open at a time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import peer.budget
from peer.budget import MIN_DESCRIPTORS, Budget, reserve


@given(st.integers(MIN_DESCRIPTORS, 1 << 31))
def test_a_budget_leaves_a_reserve_and_room_for_one_of_each(descriptors: int) -> None:
    budget = Budget.of(descriptors)
    assert budget.descriptors + reserve(descriptors) < descriptors
    assert sum(astuple(budget)) <= budget.descriptors
    assert min(astuple(budget)) >= 1


@given(st.integers(MIN_DESCRIPTORS, 1 << 20), st.integers(0, 1 << 20))
def test_more_descriptors_never_mean_less(descriptors: int, more: int) -> None:
    less, larger = Budget.of(descriptors), Budget.of(descriptors + more)
    assert all(a <= b for a, b in zip(astuple(less), astuple(larger), strict=True))


def test_a_generous_limit_is_not_used_up() -> None:
    assert Budget.of(1_048_576) == Budget(
        open_blobs=256, peer_connections=1024, strangers=128, client_connections=4096, origin_connections=256
    )


def test_the_usual_soft_limit_serves_a_small_cluster() -> None:
    budget = Budget.of(1024)
    assert budget.peer_connections >= 200
    assert budget.open_blobs >= 100


def test_too_few_descriptors_are_told() -> None:
    with pytest.raises(ValueError, match="63 file descriptors are too few"):
        Budget.of(63)


@pytest.mark.parametrize("soft", [100, 500])
def test_the_limit_is_raised_as_far_as_it_may(soft: int) -> None:
    script = (
        "import resource; from peer.budget import raise_descriptor_limit\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, 500))\n"
        "print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    packages = {"PYTHONPATH": str(Path(peer.budget.__file__).parents[1])}
    shown = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | packages, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == ["500", "500", "500"]


def test_a_daemon_raises_its_limit(tmp_path: Path) -> None:
    script = (
        "import contextlib, os, resource, signal; import shoal.cli.daemon\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))\n"
        "@contextlib.asynccontextmanager\n"
        "async def daemon():\n"
        "    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    yield\n"
        "async def hung_up():\n"
        "    pass\n"
        "shoal.cli.daemon.run(daemon, hung_up)"
    )
    packages = {"PYTHONPATH": str(Path(peer.budget.__file__).parents[1])}
    shown = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | packages, capture_output=True, text=True, check=True
    )
    assert shown.stdout.splitlines()[0] == str(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
