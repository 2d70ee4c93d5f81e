import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.cli.servicemanager import ServiceManager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The end at which systemd listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.settimeout(5)
        yield line


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.getsockname(), **more}


async def test_a_daemon_says_when_it_is_ready_and_when_it_stops(manager: socket.socket) -> None:
    async with ServiceManager(environment(manager)):
        assert manager.recv(64) == b"READY=1"
    assert manager.recv(64) == b"STOPPING=1"


async def test_the_watchdog_hears_of_each_half_of_its_patience(manager: socket.socket) -> None:
    async with ServiceManager(environment(manager, WATCHDOG_USEC="20000", WATCHDOG_PID=str(os.getpid()))):
        assert manager.recv(64) == b"READY=1"
        heard = [await asyncio.to_thread(manager.recv, 64) for _ in range(3)]
    assert heard == [b"WATCHDOG=1"] * 3


@pytest.mark.parametrize(
    "watchdog",
    [{"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}],
    ids=["another", "no number"],
)
async def test_a_watchdog_that_waits_for_another_hears_nothing(
    manager: socket.socket, watchdog: dict[str, str]
) -> None:
    async with ServiceManager(environment(manager, **watchdog)):
        assert manager.recv(64) == b"READY=1"
        await asyncio.sleep(0)
    assert manager.recv(64) == b"STOPPING=1"


async def test_an_abstract_address_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(f"\0shoal-test-{os.getpid()}")
        line.settimeout(5)
        async with ServiceManager({"NOTIFY_SOCKET": f"@shoal-test-{os.getpid()}"}):
            assert line.recv(64) == b"READY=1"


async def test_a_service_manager_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    async with ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}):
        pass


async def test_without_a_service_manager_nothing_is_told() -> None:
    async with ServiceManager({"WATCHDOG_USEC": "20000"}):
        pass
