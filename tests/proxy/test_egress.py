"""Which proxy is taken; that it is taken is shown in `test_endpoint.py`."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from proxy.egress import Egress
from proxy.settings import NO_HTTP_PROXY

PLAIN, SECURE = "http://plain.example:3128", "http://user:secret@secure.example:3128"


def egress(*exclude: str) -> Egress:
    return Egress(PLAIN, SECURE, exclude)


@pytest.mark.parametrize(
    ("url", "own", "proxy"),
    [
        ("https://registry.example", "", SECURE),
        ("http://registry.example", "", PLAIN),
        ("https://registry.example", "http://own.example", "http://own.example"),
        ("https://registry.example", NO_HTTP_PROXY, None),
        ("http://registry.example", NO_HTTP_PROXY, None),
        ("https://skipped.example", "", None),
        ("https://skipped.example", "http://own.example", "http://own.example"),
    ],
)
def test_the_proxy_of_a_scheme_and_the_upstreams_own(url: str, own: str, proxy: str | None) -> None:
    assert egress("skipped.example").proxy_for(URL(url), own) == (None if proxy is None else URL(proxy))


def test_without_a_proxy_everything_is_direct() -> None:
    assert Egress().proxy_for(URL("https://registry.example")) is None
    assert Egress(http=PLAIN).proxy_for(URL("https://registry.example")) is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"])
def test_this_machine_is_reached_directly(host: str) -> None:
    assert egress().proxy_for(URL(f"http://{host}:5000")) is None


@pytest.mark.parametrize(
    ("entry", "direct", "proxied"),
    [
        ("*", ["a.example", "192.0.2.1", "[2001:db8::1]"], []),
        ("example", ["example", "a.example", "b.a.example", "A.EXAMPLE"], ["xexample", "example.org"]),
        (" Example ", ["a.example"], []),
        (".example", ["a.example", "b.a.example"], ["example", "xexample"]),
        ("*.example", ["a.example", "b.a.example"], ["example", "xexample"]),
        ("a.example:8443", ["a.example:8443", "b.a.example:8443"], ["a.example", "a.example:443"]),
        ("a.example:443", ["a.example"], ["a.example:8443"]),
        (".example:443", ["a.example"], ["example", "a.example:8443"]),
        ("192.0.2.1", ["192.0.2.1", "192.0.2.1:8443"], ["192.0.2.10", "1.192.0.2.1.example"]),
        ("192.0.2.1:443", ["192.0.2.1"], ["192.0.2.1:8443"]),
        ("192.0.2.0/24", ["192.0.2.1", "192.0.2.255"], ["192.0.3.1", "a.example", "[2001:db8::1]"]),
        ("192.0.2.77/24", ["192.0.2.1"], []),
        ("2001:db8::1", ["[2001:db8::1]", "[2001:DB8:0::1]:8443"], ["[2001:db8::2]"]),
        ("[2001:db8::1]", ["[2001:db8::1]"], ["[2001:db8::2]"]),
        ("[2001:db8::1]:8443", ["[2001:db8::1]:8443"], ["[2001:db8::1]"]),
        ("2001:db8::/32", ["[2001:db8:1::9]"], ["[2001:db9::1]", "192.0.2.1"]),
        ("0.0.0.0/0", ["192.0.2.1"], ["[2001:db8::1]", "a.example"]),
        ("", [], ["a.example", "192.0.2.1"]),
        (".", [], ["a.example"]),
        ("*.", [], ["a.example"]),
        ("10.0.0.0/99", [], ["10.0.0.1"]),
        ("10.0.0.0/x", [], ["10.0.0.1"]),
        ("example:x", [], ["example", "a.example"]),
        ("[::1", [], ["a.example", "[2001:db8::1]"]),
    ],
)
def test_forms_of_no_proxy(entry: str, direct: list[str], proxied: list[str]) -> None:
    chosen = {host: egress("other.test", entry).proxy_for(URL(f"https://{host}")) for host in direct + proxied}
    assert [host for host in direct if chosen[host] is not None] == []
    assert [host for host in proxied if chosen[host] is None] == []


LABELS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=8).filter(
    lambda text: not text.startswith("-") and not text.endswith("-")
)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(lambda labels: ".".join([*labels, "example"]))


@given(NAMES, NAMES)
def test_a_name_means_itself_and_what_is_below(entry: str, host: str) -> None:
    is_direct = egress(entry).proxy_for(URL(f"https://{host}")) is None
    assert is_direct == (host.split(".")[-len(entry.split(".")) :] == entry.split("."))


@given(st.ip_addresses(), st.integers(0, 128), st.ip_addresses())
def test_a_network_means_the_addresses_in_it(
    base: ipaddress.IPv4Address | ipaddress.IPv6Address,
    bits: int,
    host: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    network = ipaddress.ip_network(f"{base}/{min(bits, base.max_prefixlen)}", strict=False)
    shown = f"[{host}]" if host.version == 6 else str(host)
    is_direct = egress(str(network)).proxy_for(URL(f"https://{shown}")) is None
    assert is_direct == (host in network or host.is_loopback)


@given(st.lists(st.text(max_size=30), max_size=4), NAMES)
def test_any_entry_is_survived(entries: list[str], host: str) -> None:
    for shown in (host, "192.0.2.1", "[2001:db8::1]"):
        egress(*entries).proxy_for(URL(f"https://{shown}"))
