"""The dashboard at a real supernode: who may look and change, what is pushed, and what files say to browsers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from shoal.cli.orders import trust
from shoal.cluster import ClusterSettings
from shoal.daemonsettings import OperationsSettings
from supernode import protocol
from supernode.daemon import Supernode
from supernode.dashboard.excerpts import MAX_DOTS, excerpt_of_image, excerpt_of_swarm, urgent
from supernode.dashboard.stream import Stream
from supernode.dashboard.topics import Topics
from supernode.onlookers import Topic
from supernode.preheating.jobs import NodeRun, Task, TaskState
from supernode.settings import SupernodeSettings
from supernode.watching import GLANCE
from tests.supernode.test_daemon import supernode_in
from tests.world.certificates import Authority

STATIC = Path(__file__).parents[2] / "supernode/dashboard/static"
FOREIGN = "shoal.example"
"""A name that leads to this machine, as a page elsewhere can make its own do."""


@dataclass
class Page:
    """A browser's side of the operations port, by some name of it."""

    session: aiohttp.ClientSession
    port: int
    token: str

    async def ask(self, method: str, path: str, host: str = "localhost", **options: Any) -> ClientResponse:
        headers = {"Host": f"{host}:{self.port}", **options.pop("headers", {})}
        return await self.session.request(method, f"http://127.0.0.1:{self.port}{path}", headers=headers, **options)

    async def sign_in(self) -> dict[str, str]:
        """The header with the cookie of a new session."""
        answer = await self.ask("POST", "/v1/session", headers={"Authorization": f"Bearer {self.token}"})
        assert answer.status == 200
        cookie = answer.headers["Set-Cookie"]
        assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
        return {"Cookie": cookie.partition(";")[0]}


@pytest.fixture
async def supernode(tmp_path: Path) -> AsyncIterator[Supernode]:
    async with supernode_in(tmp_path) as supernode:
        yield supernode


@pytest.fixture
async def page(supernode: Supernode, tmp_path: Path) -> AsyncIterator[Page]:
    token = (tmp_path / "operator-token").read_text().strip()
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Page(session, supernode.operations.port, token)


def control_of(supernode: Supernode) -> str:
    return f"http://127.0.0.1:{supernode.server.port}{protocol.PATH}"


class Events:
    """What a stream says, an event after the other."""

    def __init__(self, answer: ClientResponse) -> None:
        self._answer = answer

    async def next(self) -> tuple[str, Any]:
        kind = ""
        async with asyncio.timeout(10):
            async for line in self._answer.content:
                name, _, value = line.decode().strip().partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    return kind, json.loads(value)
        raise AssertionError("the stream has ended")


# --- files ----------------------------------------------------------------------------------------------------------


async def test_each_file_comes_with_a_strict_policy_and_is_asked_for_anew(page: Page) -> None:
    for path in ["/", *(f"/static/{file.name}" for file in STATIC.iterdir())]:
        answer = await page.ask("GET", path)
        assert answer.status == 200
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-cache"
        again = await page.ask("GET", path, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status, await again.read()) == (304, b"")


@pytest.mark.parametrize("name", ["none.js", "..%2Ffiles.py", "%2e%2e/files.py"])
async def test_there_are_no_other_files(page: Page, name: str) -> None:
    assert (await page.ask("GET", f"/static/{name}")).status == 404


def test_no_file_asks_for_anything_elsewhere_or_makes_markup_of_data() -> None:
    for file in STATIC.iterdir():
        text = file.read_text().replace("http://www.w3.org/", "").replace("http://THIS-HOST", "")
        assert not re.search(r"https?://", text), file
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|style=|\son\w+=", text), file


def test_all_modules_that_are_imported_are_there() -> None:
    names = {file.name for file in STATIC.iterdir()}
    for file in STATIC.glob("*.js"):
        assert set(re.findall(r'from "\./([^"]+)"', file.read_text())) <= names


def test_what_is_written_is_seen_on_what_it_is_written_on() -> None:
    """Contrasts as WCAG 2.2 asks for texts (AA), in light and in dark."""
    light, dark = (
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))
        for block in (STATIC / "style.css").read_text().split("}")[:2]
    )
    pairs = [("text", "ground"), ("text", "panel"), ("soft", "ground"), ("soft", "panel"), ("soft", "plain-soft")]
    pairs += [("accent", "panel"), ("accent", "ground"), ("accent", "accent-soft"), ("on-accent", "accent")]
    pairs += [("good", "good-soft"), ("bad", "bad-soft"), ("good", "panel"), ("bad", "panel")]
    for colours in (light, dark):
        for above, below in pairs:
            lighter, darker = sorted((luminance(colours[above]), luminance(colours[below])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (above, below)


def luminance(colour: str) -> float:
    """The relative luminance of `#rrggbb`, by WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# --- who may --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "10.1.2.3"])
async def test_who_is_on_the_machine_may_look_by_an_address_of_it(page: Page, host: str) -> None:
    assert (await page.ask("GET", "/v1/cluster", host)).status == 200


@pytest.mark.parametrize("path", ["/v1/cluster", "/v1/events?topic=cluster", "/v1/preheats", "/v1/limits"])
async def test_a_name_that_somebody_makes_lead_here_shows_nothing(page: Page, path: str) -> None:
    assert (await page.ask("GET", path, FOREIGN)).status == 401
    assert (await page.ask("GET", path, "localhost.shoal.example")).status == 401


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For"])
async def test_a_proxy_on_the_machine_opens_nothing_to_others(page: Page, header: str) -> None:
    assert (await page.ask("GET", "/v1/cluster", headers={header: "for=192.0.2.1"})).status == 401


async def test_a_session_opens_the_page_by_any_name_until_it_is_ended(page: Page) -> None:
    cookie = await page.sign_in()
    assert (await page.ask("GET", "/v1/cluster", FOREIGN, headers=cookie)).status == 200
    told = await (await page.ask("GET", "/v1/session", FOREIGN, headers=cookie)).json()
    assert told == {"may_look": True, "signed_in": True}
    assert (await page.ask("DELETE", "/v1/session", FOREIGN, headers=cookie)).status == 200
    assert (await page.ask("GET", "/v1/cluster", FOREIGN, headers=cookie)).status == 401
    told = await (await page.ask("GET", "/v1/session", FOREIGN, headers=cookie)).json()
    assert told == {"may_look": False, "signed_in": False}


async def test_with_tls_the_cookie_is_sent_over_tls_alone(tmp_path: Path) -> None:
    made = Authority(tmp_path / "authority").issue("localhost")
    operations = OperationsSettings(cert_file=str(made.certificate_file), key_file=str(made.key_file))
    settings = SupernodeSettings(port=0, operations=operations, state=tmp_path)
    async with Supernode(settings, ClusterSettings(), CollectorRegistry()) as supernode:
        token = (tmp_path / "operator-token").read_text().strip()
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust(operations) or False)) as session,
            session.post(
                f"https://localhost:{supernode.operations.port}/v1/session",
                headers={"Authorization": f"Bearer {token}"},
            ) as answer,
        ):
            assert "Secure" in answer.headers["Set-Cookie"].split("; ")


async def test_a_session_ends_when_the_token_is_replaced(page: Page, tmp_path: Path) -> None:
    cookie = await page.sign_in()
    (tmp_path / "operator-token").write_text("b" * 40)
    assert (await page.ask("GET", "/v1/cluster", FOREIGN, headers=cookie)).status == 401


@pytest.mark.parametrize("headers", [{}, {"Authorization": f"Bearer {'x' * 43}"}, {"Cookie": "shoal_session=guessed"}])
async def test_nothing_but_the_token_opens_a_session(page: Page, headers: dict[str, str]) -> None:
    answer = await page.ask("POST", "/v1/session", headers=headers)
    assert answer.status == 401
    assert "Set-Cookie" not in answer.headers


async def test_a_session_opens_no_other_one(page: Page) -> None:
    assert (await page.ask("POST", "/v1/session", headers=await page.sign_in())).status == 401


@pytest.mark.parametrize("origin", [None, "http://shoal.example", "http://localhost:1", "null"])
async def test_a_page_of_somebody_else_changes_nothing_by_the_cookie(page: Page, origin: str | None) -> None:
    headers = await page.sign_in() | ({"Origin": origin} if origin else {})
    assert (await page.ask("POST", "/v1/reload", headers=headers)).status == 401
    assert (await page.ask("POST", "/v1/preheats", json={"images": ["a/b"]}, headers=headers)).status == 401


async def test_the_own_page_preheats_in_the_operators_name(supernode: Supernode, page: Page) -> None:
    headers = await page.sign_in() | {"Origin": f"http://localhost:{page.port}"}
    async with page.session.ws_connect(control_of(supernode)) as socket:
        hello = protocol.Hello(protocol.VERSION, "a" * 32, 5081, preheats=True)
        await socket.send_bytes(protocol.from_peer.encode(hello))
        await socket.receive()
        answer = await page.ask("POST", "/v1/preheats", json={"images": ["docker.io/library/a:1"]}, headers=headers)
        assert answer.status == 200
        assert (await answer.json())["by"] == "operator"
        answer = await page.ask("DELETE", f"/v1/preheats/{(await answer.json())['id']}", headers=headers)
        assert answer.status == 200


async def test_wrong_tokens_are_bounded_at_the_sign_in(page: Page) -> None:
    wrong = {"Authorization": f"Bearer {'x' * 43}"}
    statuses = [(await page.ask("POST", "/v1/session", headers=wrong)).status for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2


# --- what is pushed -------------------------------------------------------------------------------------------------


async def test_several_topics_come_over_one_stream_and_again_when_they_change(
    supernode: Supernode, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supernode.onlookers._MOST_SECONDS", 0.05)
    answer = await page.ask("GET", "/v1/events?topic=cluster&topic=nodes:name:0:&topic=preheats")
    assert answer.headers["Content-Type"] == "text/event-stream"
    events = Events(answer)
    assert [(await events.next())[0] for _ in range(3)] == ["cluster", "nodes", "preheats"]
    async with page.session.ws_connect(control_of(supernode)) as socket:
        hello = protocol.Hello(protocol.VERSION, "a" * 32, 5081, name="<b>bold</b>")
        await socket.send_bytes(protocol.from_peer.encode(hello))
        nodes: list[Any] = []
        while not nodes:
            kind, data = await events.next()
            nodes = data["nodes"] if kind == "nodes" else []
        assert [node["name"] for node in nodes] == ["<b>bold</b>"]
    answer.close()


async def test_a_stream_ends_with_the_session_that_opened_it(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supernode.onlookers._MOST_SECONDS", 0.05)
    cookie = await page.sign_in()
    answer = await page.ask("GET", "/v1/events?topic=preheats", FOREIGN, headers=cookie)
    assert (await Events(answer).next())[0] == "preheats"
    assert (await page.ask("DELETE", "/v1/session", FOREIGN, headers=cookie)).status == 200
    async with asyncio.timeout(5):
        assert b"data:" not in await answer.read()


class Heavy(Topics):
    """Topics of which each picture is large and another one than before."""

    def __init__(self) -> None:
        self.made = 0

    def topic(self, name: str) -> Topic:
        return Topic(name, lambda: GLANCE, self._take)

    def _take(self) -> bytes:
        self.made += 1
        return b"data: %d\n\n" % self.made * (1 << 18)


async def test_who_takes_nothing_is_dropped_and_nothing_is_made_for_him(
    supernode: Supernode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supernode.onlookers._MOST_SECONDS", 0.01)
    monkeypatch.setattr("supernode.rows._PATIENCE_SECONDS", 0.3)
    topics, ended = Heavy(), asyncio.Event()
    stream = Stream(supernode.onlookers, topics, lambda _: True)

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await stream.serve(request)
        finally:
            ended.set()

    app = web.Application()
    app.router.add_get("/", handle)
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 10)
        writer.write(b"GET /?topic=x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(10):
            await ended.wait()
        assert 0 < topics.made < 20
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while news := await reader.read(1 << 20):
                said = (said + news)[-10:]
        assert not said.endswith(b"0\r\n\r\n"), "the answer has not come to its end"
        writer.close()


async def test_a_stream_without_news_says_that_it_is_alive(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supernode.onlookers._MOST_SECONDS", 0.02)
    monkeypatch.setattr("supernode.dashboard.stream._QUIET_SECONDS", 0.1)
    answer = await page.ask("GET", "/v1/events?topic=preheats")
    lines = [await answer.content.readline() for _ in range(6)]
    assert lines[0] == b"event: preheats\n"
    assert lines[3:] == [b": still here\n", b"\n", b": still here\n"]
    answer.close()


async def test_a_topic_about_what_is_not_there_says_so(page: Page) -> None:
    topics = ["node:nobody", f"swarm:sha256:{'a' * 64}", "image:none", "preheat:none"]
    answer = await page.ask("GET", "/v1/events", params=[("topic", topic) for topic in topics])
    events = Events(answer)
    for topic in topics:
        kind, data = await events.next()
        assert (kind, list(data)) == (topic.partition(":")[0], ["error"])
    answer.close()


@pytest.mark.parametrize(
    "query",
    [
        "",
        "topic=cluster:x",
        "topic=nodes:size:0:",
        "topic=nodes:name:-1:",
        "topic=none",
        "&".join(["topic=cluster"] * 5),
        f"topic=image:{'x' * 300}",
    ],
)
async def test_what_is_no_topic_is_refused(page: Page, query: str) -> None:
    answer = await page.ask("GET", f"/v1/events?{query}")
    assert answer.status in {400, 404}
    assert (await answer.json())["error"]


async def test_nodes_are_found_by_what_they_say_and_shown_a_page_at_a_time(supernode: Supernode, page: Page) -> None:
    sockets = []
    for number in range(3):
        socket = await page.session.ws_connect(control_of(supernode))
        hello = protocol.Hello(
            protocol.VERSION, f"{number:032x}", 5081, name=f"node{number}", labels={"rack": f"r{number % 2}"}
        )
        await socket.send_bytes(protocol.from_peer.encode(hello))
        await socket.receive()
        sockets.append(socket)
    some = supernode.view.some_nodes

    def names(picture: dict[str, Any]) -> list[str]:
        return [node["name"] for node in picture["nodes"]]

    assert names(some("", "name", 0, 2)) == ["node0", "node1"]
    assert names(some("", "name", 2, 2)) == ["node2"]
    found = some("RACK=r0", "served", 0, 50)
    assert (names(found), found["found"], found["connected"]) == (["node0", "node2"], 2, 3)
    for socket in sockets:
        await socket.close()


# --- excerpts -------------------------------------------------------------------------------------------------------


def member(number: int, *, complete: bool) -> dict[str, Any]:
    there = 4 if complete else 2
    return {
        "peer": f"{number:032x}",
        "name": f"n{number}",
        "complete": complete,
        "wants": not complete,
        "pieces_there": there,
        "have": "",
    }


def test_a_swarm_of_many_is_shown_by_zones() -> None:
    members = [member(number, complete=number % 2 == 0) for number in range(MAX_DOTS + 100)]
    zones = {each["peer"]: "east" if number < 50 else "west" for number, each in enumerate(members)}
    transfers = [
        {"to": members[1]["peer"], "from_peer": members[60]["peer"], "from_origin": None, "rate": 5},
        {"to": members[3]["peer"], "from_peer": members[62]["peer"], "from_origin": None, "rate": 7},
        {"to": members[5]["peer"], "from_peer": None, "from_origin": "docker.io", "rate": 3},
    ]
    shown = excerpt_of_swarm({"members": members, "transfers": transfers}, zones)
    assert shown["grouped"] is True
    groups: Any = shown["members"]
    assert [(each["name"], each["count"], each["pieces_there"]) for each in groups] == [
        ("west", 150, 3),
        ("east", 50, 3),
    ]
    assert shown["transfers"] == [
        {"to": "east", "from_peer": "west", "from_origin": None, "rate": 12},
        {"to": "east", "from_peer": None, "from_origin": "docker.io", "rate": 3},
    ]


def test_a_swarm_of_few_is_shown_node_by_node() -> None:
    members = [member(number, complete=False) for number in range(MAX_DOTS)]
    shown = excerpt_of_swarm({"members": members, "transfers": []}, {})
    assert shown["grouped"] is False
    assert len(shown["members"]) == MAX_DOTS  # type: ignore[arg-type]


def test_of_many_nodes_with_an_image_those_that_lack_something_come_first() -> None:
    nodes = [{"name": f"n{number}", "complete": number != 500, "pinned": False} for number in range(1000)]
    shown = excerpt_of_image({"nodes": nodes})
    shown_nodes: Any = shown["nodes"]
    assert (shown_nodes[0]["name"], len(shown_nodes)) == ("n500", 100)
    assert (shown["nodes_count"], shown["nodes_complete"]) == (1000, 999)


def test_of_many_nodes_of_a_preheat_those_that_failed_come_first() -> None:
    runs = [NodeRun("p", f"n{number}", {"image": Task(TaskState.DONE)}) for number in range(999)]
    runs.append(NodeRun("p", "z", {"image": Task(TaskState.DONE), "other": Task(TaskState.FAILED)}))
    shown = urgent(runs)
    assert (shown[0], len(shown)) == (999, 199)


def test_of_a_preheat_of_many_images_one_node_is_shown_at_least() -> None:
    runs = [NodeRun("p", "n", {f"image{number}": Task() for number in range(1000)})] * 2
    assert urgent(runs) == [0]
