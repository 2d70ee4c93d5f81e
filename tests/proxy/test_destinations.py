"""What becomes of a host that a client wants to reach through the proxy, as a table."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.destinations import (
    Authority,
    Destinations,
    Elsewhere,
    InvalidAuthority,
    Opened,
    Refused,
    TunnelSettings,
    is_pull,
)


@dataclass(frozen=True)
class Upstream:
    url: str


UPSTREAMS = {
    "docker.io": Upstream("https://registry-1.docker.io"),
    "quay.io": Upstream("https://quay.io"),
    "registry.example:5000": Upstream("http://10.0.0.5:8080"),
    "[fd00::1]:5000": Upstream("https://[fd00::2]:5001"),
    "inner.example": Upstream("https://Mirror.Example:8443"),
}


def decide(scheme: Any, target: str, **settings: Any) -> str:
    """The outcome in a word, with the registry where there is one."""
    destinations = Destinations(TunnelSettings(**settings), UPSTREAMS)
    match destinations.decide(scheme, Authority.parse(target, 443 if scheme == "https" else 80)):
        case Opened(registry):
            return f"opened {registry}"
        case Elsewhere(_, anywhere):
            return "anywhere" if anywhere else "public"
        case Refused():
            return "refused"


@pytest.mark.parametrize(
    ("scheme", "target", "outcome"),
    [
        ("https", "registry-1.docker.io:443", "opened docker.io"),
        ("https", "REGISTRY-1.Docker.IO.:443", "opened docker.io"),
        ("https", "docker.io:443", "public"),  # a web site
        ("https", "index.docker.io:443", "public"),
        ("https", "auth.docker.io:443", "public"),
        ("https", "quay.io:443", "opened quay.io"),
        ("https", "quay.io:444", "refused"),
        ("http", "quay.io", "opened quay.io"),
        ("https", "quay.io.evil.example:443", "public"),
        ("https", "xquay.io:443", "public"),
        ("https", "registry.example:5000", "opened registry.example:5000"),
        ("http", "registry.example:5000", "opened registry.example:5000"),
        ("https", "registry.example:443", "public"),
        ("http", "10.0.0.5:8080", "opened registry.example:5000"),
        ("https", "10.0.0.5:8080", "refused"),  # no TLS is spoken there
        ("https", "[fd00::1]:5000", "opened [fd00::1]:5000"),
        ("https", "[FD00:0::1]:5000", "opened [fd00::1]:5000"),
        ("https", "[fd00::2]:5001", "opened [fd00::1]:5000"),
        ("https", "mirror.example:8443", "opened inner.example"),
        ("https", "other.example:443", "public"),
        ("https", "other.example:22", "refused"),
        ("http", "other.example", "refused"),
    ],
)
def test_hosts_by_the_configuration(scheme: str, target: str, outcome: str) -> None:
    assert decide(scheme, target) == outcome


@pytest.mark.parametrize(
    ("target", "settings", "outcome"),
    [
        ("other.example:443", {"others": "refuse"}, "refused"),
        ("quay.io:443", {"others": "refuse"}, "opened quay.io"),
        ("auth.docker.io:443", {"others": "refuse", "hosts": ["auth.docker.io"]}, "anywhere"),
        ("auth.docker.io:8443", {"others": "refuse", "hosts": ["auth.docker.io"]}, "refused"),
        ("auth.docker.io:8443", {"others": "refuse", "hosts": ["auth.docker.io:8443"]}, "anywhere"),
        ("auth.docker.io:443", {"others": "refuse", "hosts": ["auth.docker.io:8443"]}, "refused"),
        ("tokens.corp:443", {"hosts": ["tokens.corp"]}, "anywhere"),
        ("other.example:8443", {"ports": [443, 8443]}, "public"),
        ("other.example:443", {"ports": []}, "refused"),
        ("tokens.corp:443", {"ports": [], "hosts": ["tokens.corp"]}, "anywhere"),
    ],
)
def test_other_hosts_by_the_settings(target: str, settings: dict[str, Any], outcome: str) -> None:
    assert decide("https", target, **settings) == outcome


@pytest.mark.parametrize(
    "text",
    ["", ":443", "a b:443", "host:0", "host:65536", "host:x", "[::1", "[::g]:1", "u@host:1", "host/x", "host:1:2"],
)
def test_what_is_no_authority(text: str) -> None:
    with pytest.raises(InvalidAuthority):
        Authority.parse(text, 443)


@given(st.text(max_size=60))
def test_an_authority_that_is_read_is_written_the_same(text: str) -> None:
    try:
        authority = Authority.parse(text, 443)
    except InvalidAuthority:
        return
    assert Authority.parse(str(authority), 1) == authority


@pytest.mark.parametrize(
    ("host", "agrees"),
    [
        ("quay.io", True),
        ("QUAY.io:443", True),
        (None, True),
        ("quay.io:80", False),
        ("quay.io.evil.example", False),
        ("", False),
        ("a b", False),
    ],
)
def test_the_host_header_of_an_opened_host(host: str | None, agrees: bool) -> None:
    opened = Destinations(TunnelSettings(), UPSTREAMS).decide("https", Authority("quay.io", 443))
    assert isinstance(opened, Opened)
    assert opened.is_addressed_by(host) is agrees


@pytest.mark.parametrize(
    ("path", "pull"),
    [
        ("/v2/a/manifests/x", True),
        ("/v2/a/b/c/manifests/sha256:00", True),
        ("/v2/a/blobs/sha256:00", True),
        ("/v2/a/tags/list", True),
        ("/v2/a/referrers/sha256:00", True),
        ("/v2/a/%6Danifests/x", True),
        ("/v2/a%2Fmanifests%2Fx", True),
        ("/v2/a/manifests/x/", True),
        ("//v2/a/manifests/x", True),
        ("/V2/a/manifests/x", True),
        ("/x/../v2/a/manifests/x", True),
        ("/x/%2e%2e/v2/a/manifests/x", True),
        ("/v2/./a/b", True),
        ("/v2//a/b", True),
        ("/v2/a/blobs/uploads/manifests/x", True),
        ("/v2/", False),
        ("/v2", False),
        ("/v2/auth", False),
        ("/v2/token", False),
        ("/v2/_catalog", False),
        ("/v2/a/blobs/uploads/", False),
        ("/v2/a/blobs/uploads", False),
        ("/v2/a/blobs/uploads/01-02", False),
        ("/v2/a/_oras/artifacts", False),
        ("/token", False),
        ("/service/token", False),
        ("/", False),
    ],
)
def test_what_is_the_mirrors_inside_an_opened_host(path: str, pull: bool) -> None:
    assert is_pull(path) is pull


@given(
    st.lists(
        st.sampled_from(["a", "..", ".", "", "%2e%2e", "manifests", "%6danifests", "x", "v2", "blobs"]), max_size=8
    )
)
def test_no_path_to_a_manifest_is_relayed(segments: list[str]) -> None:
    path = "/" + "/".join(segments)
    reached = posixpath.normpath("/" + unquote(path).lstrip("/"))  # what the most forgiving of servers would make of it
    if re.fullmatch("/v2/.+/(manifests|blobs)/[^/]+", reached):
        assert is_pull(path)


def test_opened_hosts_are_listed_as_clients_write_them() -> None:
    hosts = Destinations(TunnelSettings(), UPSTREAMS).opened_hosts
    assert "registry-1.docker.io" in hosts
    assert "registry.example:5000" in hosts
    assert "10.0.0.5:8080" not in hosts


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"others": "some"}, "others"),
        ({"ports": [0]}, "ports"),
        ({"hosts": ["https://x"]}, "host or host:port"),
        ({"connections": 0}, "connections"),
        ({"idle_timeout": 0}, "idle_timeout"),
    ],
)
def test_settings_that_are_not_allowed(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(keys, TunnelSettings)
