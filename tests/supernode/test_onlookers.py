"""Who looks at the cluster: over a real control connection, at a real supernode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import pytest

from supernode import protocol
from supernode.daemon import Supernode
from supernode.onlookers import Crowded, Topic
from supernode.report import MAX_REPORT_SIZE, HeldImage, Report, Watch
from supernode.watching import GLANCE
from tests.supernode.test_daemon import supernode_in


@pytest.fixture
async def supernode(tmp_path: Path) -> AsyncIterator[Supernode]:
    async with supernode_in(tmp_path) as supernode:
        yield supernode


class Member:
    """A peer that answers nothing by itself."""

    def __init__(self, supernode: Supernode, *, reports: bool) -> None:
        self._url = f"http://127.0.0.1:{supernode.server.port}{protocol.PATH}"
        self._hello = protocol.Hello(protocol.VERSION, "a" * 32, 5081, reports=reports)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        self.socket = await self._session.ws_connect(self._url)
        await self.send(self._hello)
        assert isinstance(await self.heard(), protocol.Welcome)
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._session.close()

    async def send(self, message: protocol.FromPeer) -> None:
        await self.socket.send_bytes(protocol.from_peer.encode(message))

    async def heard(self) -> protocol.FromSupernode:
        return protocol.from_supernode.decode((await self.socket.receive(timeout=5)).data)


async def test_a_peer_that_does_not_say_that_it_reports_is_not_asked(supernode: Supernode) -> None:
    async with Member(supernode, reports=False) as member:
        supernode.server.telemetry.look(GLANCE)
        await member.send(protocol.Probe(1))
        assert isinstance(await member.heard(), protocol.Probed)


async def test_a_look_waits_for_what_nodes_have_not_told_yet(supernode: Supernode) -> None:
    async with Member(supernode, reports=True) as member, aiohttp.ClientSession() as session:
        assert await member.heard() == Watch(60.0)
        url = f"http://127.0.0.1:{supernode.operations.port}/v1/images"
        await member.send(Report(1.0))
        looking = asyncio.create_task(session.get(url))
        asked = await member.heard()
        assert isinstance(asked, Watch)
        assert asked.images
        await member.send(Report(2.0, images=[HeldImage("sha256:x", 5, complete=True, names=["a/b:c"])]))
        answer = await (await looking).json()
        assert answer["images"][0] == {
            "digest": "sha256:x",
            "names": ["a/b:c"],
            "bytes": 5,
            "nodes_complete": 1,
            "nodes_partly": 0,
            "nodes_pinned": 0,
        }


@pytest.mark.parametrize("path", [f"nodes/{32 * 'a'}", f"swarms/sha256:{64 * 'a'}", "images/none"])
async def test_what_is_not_there_is_said_to_be_missing(supernode: Supernode, path: str) -> None:
    async with aiohttp.request("GET", f"http://127.0.0.1:{supernode.operations.port}/v1/{path}") as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]


def counted(name: str, pictures: Iterator[int]) -> Topic:
    return Topic(name, lambda: GLANCE, lambda: b"%d" % next(pictures))


async def test_those_who_follow_the_same_are_shown_the_same_pictures(supernode: Supernode) -> None:
    pictures = iter(range(100))
    follow, topic = supernode.onlookers.follow, counted("x", pictures)
    async with (
        aclosing(follow([topic])) as one,
        aclosing(follow([topic])) as two,
        aclosing(follow([topic, counted("y", pictures)])) as other,
    ):
        assert [await anext(one), await anext(two), await anext(other)] == [[b"0"], [b"0"], [b"0", b"1"]]


async def test_nothing_is_made_when_nobody_follows_any_more(
    supernode: Supernode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supernode.onlookers._MOST_SECONDS", 0.01)
    pictures = iter(range(1000))
    async with aclosing(supernode.onlookers.follow([counted("x", pictures)])) as following:
        seen = [await anext(following) for _ in range(3)]
    assert seen == [[b"0"], [b"1"], [b"2"]]
    await asyncio.sleep(0.1)
    assert next(pictures) == 3


async def test_there_is_an_end_to_those_who_follow(supernode: Supernode) -> None:
    pictures = iter(range(1000))
    followers = [supernode.onlookers.follow([counted(str(number), pictures)]) for number in range(33)]
    for follower in followers[:-1]:
        await anext(follower)
    with pytest.raises(Crowded):
        await anext(followers[-1])
    await followers[0].aclose()
    assert await anext(supernode.onlookers.follow([counted("another", pictures)]))
    for follower in followers:
        await follower.aclose()


async def test_a_report_that_is_too_large_ends_its_connection(supernode: Supernode) -> None:
    async with Member(supernode, reports=True) as member:
        await member.heard()
        names = ["x" * 500] * 8
        images = [HeldImage("sha256:x", 5, names=names)] * (MAX_REPORT_SIZE // 4000 + 1)
        await member.send(Report(1.0, images=images))
        assert isinstance(await member.heard(), protocol.Refused)
        assert list(supernode.view.nodes()) == []
