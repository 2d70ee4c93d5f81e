"""Which addresses the proxy connects to on behalf of others."""

from __future__ import annotations

import socket

import aiohttp
import pytest

from proxy.addresses import NotPermitted, PublicResolver, is_own, is_public, resolve


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%lo",
        "fec0::1",
        "fd00::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2002:a00:1::",
        "2001:0:a00:1::",
    ],
)
def test_addresses_that_are_not(address: str) -> None:
    assert not is_public(address)


def test_own_addresses_are_known() -> None:
    assert is_own("127.0.0.1")
    assert not is_own("192.0.2.1")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "127.1"])
async def test_a_name_for_loopback_is_not_permitted_in_any_spelling(host: str) -> None:
    with pytest.raises(NotPermitted, match="no public address"):
        await resolve(host, 443, anywhere=False)


async def test_a_host_that_the_configuration_names_may_be_anywhere() -> None:
    assert "127.0.0.1" in await resolve("localhost", 443, anywhere=True)


async def test_the_http_client_gets_public_addresses_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = PublicResolver()
    with pytest.raises((NotPermitted, OSError)):
        await resolver.resolve("localhost", 80)
    connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False)
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises((NotPermitted, aiohttp.ClientConnectorError)):
            await session.get("http://localhost:1/")


async def test_private_addresses_of_a_host_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in ("10.0.0.1", "1.1.1.1")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: entries)
    assert await resolve("mixed.example", 443, anywhere=False) == ["1.1.1.1"]
