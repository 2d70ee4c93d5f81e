from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.settings import DOCKER_HUB_URL, ProxySettings, UpstreamSettings
from shoal.reference import Registry


def load(**keys: Any) -> ProxySettings:
    return msgspec.convert(keys, ProxySettings)


def test_without_configuration_it_mirrors_docker_hub() -> None:
    settings = ProxySettings()
    assert (settings.host, settings.port, settings.default_upstream) == ("127.0.0.1", 5080, "docker.io")
    assert list(settings.upstreams) == ["docker.io"]
    assert settings.upstreams["docker.io"].url == DOCKER_HUB_URL


def test_an_upstream_without_url_is_reached_by_its_name() -> None:
    settings = load(upstreams={"quay.io": {}, "index.docker.io": {"username": "u", "password": "p"}})
    assert settings.upstreams["quay.io"].url == "https://quay.io"
    assert settings.upstreams["docker.io"].url == DOCKER_HUB_URL
    assert settings.upstreams["docker.io"].username == "u"


def test_an_unnamed_registry_has_no_upstream() -> None:
    assert ProxySettings().upstream(Registry("evil.example")) is None
    assert ProxySettings().upstream(Registry("docker.io")) is not None


def test_a_closed_list_without_docker_hub() -> None:
    settings = load(default_upstream="quay.io", upstreams={"quay.io": {}})
    assert list(settings.upstreams) == ["quay.io"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"port": 70000}, r"\$\.port"),
        ({"port": "x"}, r"\$\.port"),
        ({"hots": "x"}, "hots"),
        ({"client_timeout": 0.5}, r"\$\.client_timeout"),
        ({"tag_freshness": -1}, r"\$\.tag_freshness"),
        ({"default_upstream": "quay.io"}, "`default_upstream` 'quay.io' is not one of"),
        ({"upstreams": {"a b": {}}}, "`upstreams`: not a registry host"),
        ({"upstreams": {"docker.io": {}, "index.docker.io": {}}}, "twice"),
        ({"upstreams": {"q.io": {"url": "ftp://q.io"}}}, r"ftp://q.io.*allowed.*upstreams"),
        ({"upstreams": {"q.io": {"url": "https://q.io/v2/"}}}, "allowed"),
        ({"upstreams": {"q.io": {"url": "https://u:p@q.io"}}}, "allowed"),
        ({"upstreams": {"q.io": {"url": "http://q.io:port"}}}, "allowed"),
        ({"upstreams": {"q.io": {"password": "p"}}}, "needs a `username`"),
        ({"upstreams": {"q.io": {"username": "a:b"}}}, "colon"),
        ({"upstreams": {"q.io": {"username": "u", "password": "p", "password_file": "f"}}}, "exclude"),
        ({"upstreams": {"q.io": {"connect_timeout": 0}}}, "connect_timeout"),
        ({"upstreams": {"q.io": {"retries": -1}}}, "retries"),
    ],
)
def test_what_is_wrong_is_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        load(**keys)


def test_a_password_comes_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    assert UpstreamSettings(username="u", password_file=str(file)).credentials() == ("u", "s3cret")
    assert UpstreamSettings(username="u", password="p").credentials() == ("u", "p")
    assert UpstreamSettings().credentials() is None
    with pytest.raises(ValueError, match="cannot be read"):
        UpstreamSettings(username="u", password_file=str(tmp_path / "missing")).credentials()
