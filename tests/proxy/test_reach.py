"""Where a configured upstream may lead: the decision as a table, and with real connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from peer.origin import OriginUnavailable
from proxy.addresses import NotPermitted, PublicResolver
from proxy.egress import Egress
from proxy.endpoint import Endpoint, Question, Sessions
from proxy.identity import ANONYMOUS
from proxy.reach import Reach
from proxy.settings import EndpointSettings
from shoal.reference import Registry

BASE = URL("https://registry.example:5000")
QUESTION = Question("GET", "team/app", "tags/list")


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("https://registry.example:5000/x", True),
        ("https://registry.example/x", True),
        ("http://registry.example:9000/x", True),
        ("https://store.inside/x", True),
        ("http://store.inside/x", True),
        ("https://STORE.inside/x", True),
        ("https://store.inside:9000/x", False),
        ("http://10.0.0.7:9000/x", True),
        ("http://10.0.0.7/x", False),
        ("http://[fd00::7]:9000/x", True),
        ("http://[fd00:0::7]:9000/x", True),
        ("http://[fd00::8]:9000/x", False),
        ("http://[fe80::1%25lo]/x", False),
        ("https://bücher.example/x", False),
        ("https://xn--bcher-kva.inside/x", True),
        ("https://bücher.inside/x", True),
        ("https://not.registry.example/x", False),
    ],
)
def test_which_hosts_the_configuration_names(url: str, named: bool) -> None:
    redirects = ["store.inside", "10.0.0.7:9000", "[fd00::7]:9000", "xn--bcher-kva.inside"]
    assert Reach(BASE, redirects, (), public_only=False).is_named(URL(url)) is named
    assert not Reach(BASE, redirects, (), public_only=True).is_named(URL(url))


@pytest.mark.parametrize(
    ("base", "url", "named"),
    [
        ("http://127.0.0.1:5000", "http://localhost:5001/token", True),
        ("http://localhost:5000", "http://[::1]:5001/token", True),
        ("http://127.0.0.1:5000", "http://10.0.0.1/token", False),
        ("http://10.0.0.1:5000", "http://10.0.0.1:9000/token", True),
        ("http://10.0.0.1:5000", "http://10.0.0.2:5000/token", False),
        ("http://10.0.0.1:5000", "http://localhost:5000/token", False),
        ("http://[fd00::1]:5000", "http://[fd00::1]/token", True),
    ],
)
def test_an_upstream_inside_leads_to_itself(base: str, url: str, named: bool) -> None:
    assert Reach(URL(base), (), (), public_only=False).is_named(URL(url)) is named


@pytest.mark.parametrize(
    ("url", "direct", "by_proxy"),
    [
        ("https://cdn.example/", True, True),
        ("https://1.1.1.1/", True, True),
        ("https://10.0.0.1/", False, False),
        ("https://169.254.169.254/", False, False),
        ("https://100.100.100.200/", False, False),
        ("https://[::ffff:127.0.0.1]/", False, False),
        ("https://[fd00:ec2::254]/", False, False),
        ("https://0.0.0.0/", False, False),
        ("https://localhost/", False, False),
        ("https://proxy.inside:3128/", False, True),
    ],
)
def test_which_other_hosts_may_be_asked(url: str, direct: bool, by_proxy: bool) -> None:
    reach = Reach(BASE, (), {"proxy.inside"}, public_only=False)
    for is_direct, permitted in ((True, direct), (False, by_proxy)):
        with contextlib.nullcontext() if permitted else pytest.raises(NotPermitted):
            reach.check(URL(url), is_direct=is_direct)


@dataclass
class Inside:
    """A service at loopback, and a registry of a name that leads to it."""

    port: int
    endpoint_port: int
    lead: dict[str, str] = field(default_factory=dict)
    """`way` (redirect or realm) and where to."""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
async def inside(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Inside]:
    real = socket.getaddrinfo

    def found(host: str, port: int, *args: int, **options: int) -> list[tuple[Any, ...]]:
        return list(real("127.0.0.1" if host.endswith(".example") else host, port, *args, **options))

    monkeypatch.setattr(socket, "getaddrinfo", found)

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        made.asked.append(f"{request.host}{request.path}")
        return web.json_response({"token": "for-nobody"})

    async def lead(request: web.BaseRequest) -> web.StreamResponse:
        if made.lead["way"] == "redirect":
            return web.Response(status=307, headers={"Location": made.lead["to"]})
        if request.headers.get("Authorization") == "Bearer for-nobody":
            return web.Response(text="{}")
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{made.lead["to"]}"'})

    async with contextlib.AsyncExitStack() as stack:
        ports: list[int] = []
        for handler in (serve, lead):
            runner = web.ServerRunner(web.Server(handler, access_log=None), shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            ports.append(site.port)
        made = Inside(ports[0], ports[1])
        yield made


async def ask(inside: Inside, redirects: list[str], egress: Egress) -> int:
    """The status of a question to the registry."""
    settings = EndpointSettings(url=f"http://registry.example:{inside.endpoint_port}", redirects=redirects)
    sessions = Sessions.open(10, PublicResolver(egress.hosts))
    endpoint = Endpoint(
        Registry("registry.example"), settings, egress, lambda: sessions, time.monotonic, public_only=False
    )
    try:
        async with asyncio.timeout(10):
            response = await endpoint.ask(QUESTION, ANONYMOUS)
        response.close()
        return response.status
    finally:
        await endpoint.close()
        await sessions.close()


WAYS = pytest.mark.parametrize("way", ["redirect", "realm"])


@WAYS
@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "127.1", "127.0.0.2", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"),
        *("rebound.example", "10.0.0.1", "100.64.0.1", "169.254.169.254", "[fd00:ec2::254]"),
    ],
)
async def test_a_configured_upstream_does_not_lead_inside(inside: Inside, way: str, host: str) -> None:
    inside.lead = {"way": way, "to": f"http://{host}:{inside.port}/latest/meta-data/?signature=secret"}
    with pytest.raises(OriginUnavailable, match=r"no public address.*`redirects`|not an address") as caught:
        await ask(inside, [], Egress())
    assert inside.asked == []
    assert "secret" not in str(caught.value)


@WAYS
@pytest.mark.parametrize("redirects", [[], ["localhost:{port}"]], ids=["its own host", "a named host"])
async def test_it_leads_to_itself_and_where_the_configuration_says(
    inside: Inside, way: str, redirects: list[str]
) -> None:
    host = "localhost" if redirects else "registry.example"
    inside.lead = {"way": way, "to": f"http://{host}:{inside.port}/there"}
    assert await ask(inside, [text.format(port=inside.port) for text in redirects], Egress()) == 200
    assert inside.asked == [f"{host}:{inside.port}/there"]


async def test_behind_an_http_proxy_names_are_its_own_to_judge(inside: Inside) -> None:
    """The service stands for the proxy: it is asked for the whole address, and a literal one is not given to it."""
    egress = Egress(http=f"http://localhost:{inside.port}", exclude=["registry.example"])
    inside.lead = {"way": "redirect", "to": "http://store.inside/blob"}
    assert await ask(inside, [], egress) == 200
    assert len(inside.asked) == 1
    inside.lead["to"] = "http://10.0.0.1/blob"
    with pytest.raises(OriginUnavailable, match="no public address"):
        await ask(inside, [], egress)
    assert len(inside.asked) == 1
