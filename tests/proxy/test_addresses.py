"""Which addresses the proxy connects to on behalf of others."""

from __future__ import annotations

import ipaddress
import socket

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.addresses import NotPermitted, PublicResolver, is_own, is_public, may_be_public, resolve


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
        "168.63.129.16",
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
    assert not is_own("localhost")
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


IPV4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
IPV6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address)
INSIDE = [
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/3",
        "fc00::/7",
        "fe80::/10",
        "ff00::/8",
        "64:ff9b:1::/48",
    )
]


def embedded(address: ipaddress.IPv4Address) -> list[str]:
    """IPv6 addresses by which an IPv4 address may be meant."""
    number = int(address)
    high, low = number >> 16, number & 0xFFFF
    return [f"::ffff:{address}", f"64:ff9b::{high:x}:{low:x}", f"2002:{high:x}:{low:x}::1"]


@given(st.sampled_from(INSIDE), st.integers(0, 2**128 - 1))
def test_no_address_of_a_network_inside_is_public(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, number: int
) -> None:
    address = network[number % network.num_addresses]
    assert not is_public(str(address))
    assert not may_be_public(str(address))
    if isinstance(address, ipaddress.IPv4Address):
        assert not any(map(is_public, embedded(address)))


@given(IPV4)
def test_an_ipv4_address_is_what_it_is_in_every_dress(address: ipaddress.IPv4Address) -> None:
    assert {is_public(text) for text in embedded(address)} == {is_public(str(address))}


@given(IPV6)
def test_whatever_is_public_is_global_unicast_or_stands_for_what_is(address: ipaddress.IPv6Address) -> None:
    if is_public(str(address)) and address not in ipaddress.ip_network("2000::/3"):
        assert address.ipv4_mapped is not None or address in ipaddress.ip_network("64:ff9b::/96")
    assert is_public(str(address)) == is_public(address.exploded) == is_public(f"{address}%eth0")


@pytest.mark.parametrize("host", ["localhost", "LocalHost.", "db.localhost", "[::1]", "fe80::1%eth0", "127.0.0.1"])
def test_hosts_that_are_this_machine_by_their_text(host: str) -> None:
    assert not may_be_public(host)


@pytest.mark.parametrize("host", ["registry.example", "localhost.example", "1.1.1.1", "[2606:4700::1111]"])
def test_hosts_that_may_be_public(host: str) -> None:
    assert may_be_public(host)
