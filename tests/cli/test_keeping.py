"""Stores that are not of the user who runs a command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.daemons import free_ports
from peer.disk import StoreError
from peer.store import Store
from shoal.cli.exits import ExitCode
from tests.cli.conftest import Shoal
from tests.world.programs import require_root

SOMEBODY = 4711


def test_root_makes_nothing_in_the_store_of_another_user(shoal: Shoal, tmp_path: Path) -> None:
    require_root()
    os.chown(tmp_path, SOMEBODY, SOMEBODY)
    (port,) = free_ports(1)
    ended = shoal("gc", "--store", tmp_path, "--operations", f":{port}")
    assert ended.code == ExitCode.NO_DAEMON
    assert f"sudo -u '#{SOMEBODY}'" in ended.err
    pulled = shoal("pull", "--store", tmp_path, "docker.io/library/alpine:3", SHOAL_PROXY__PORT=str(port))
    assert pulled.code == ExitCode.FAILED
    assert f"sudo -u '#{SOMEBODY}'" in pulled.err
    assert not list(tmp_path.iterdir())


def test_a_store_that_this_user_may_not_open_is_asked_of_the_daemon(
    shoal: Shoal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_: Store) -> None:
        raise StoreError("cannot open it") from PermissionError()

    monkeypatch.setattr(Store, "open", forbidden)  # root may open everything
    (port,) = free_ports(1)
    ended = shoal("images", "--store", tmp_path, "--operations", f":{port}")
    assert ended.code == ExitCode.NO_DAEMON
    assert f"cannot open it (run it as root or as the daemon's user), and no daemon answers at 127.0.0.1:{port}" in (
        ended.err
    )
