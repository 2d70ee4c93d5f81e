"""Secrets of a configuration, which neither its errors nor its printed form show."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shoal.cli.configuration import Configuration
from shoal.settings import SettingsError, load
from shoal.toml import dump

SECRET = "s3cr3t"
UPSTREAM: dict[str, Any] = {
    "url": "https://registry.example",
    "username": "deploy",
    "password": SECRET,
    "http_proxy": f"http://way:{SECRET}@proxy.example:3128",
    "mirrors": [{"url": "https://mirror.example", "username": "deploy", "password": SECRET}],
}


def variables(upstream: object) -> dict[str, str]:
    text = upstream if isinstance(upstream, str) else json.dumps({"registry.example": upstream})
    return {"SHOAL_PROXY__UPSTREAMS": text, "SHOAL_PROXY__HTTPS_PROXY": f"http://way:{SECRET}@proxy.example:3128"}


def test_what_is_printed_holds_no_secret() -> None:
    printed = dump(load(Configuration, None, variables(UPSTREAM)))
    assert "mirror.example" in printed
    assert SECRET not in printed


@pytest.mark.parametrize(
    "upstream",
    [
        UPSTREAM | {"unknown": SECRET},
        UPSTREAM | {"password": [SECRET]},
        UPSTREAM | {"password": 7, "password_file": SECRET},
        UPSTREAM | {"username": ""},
        UPSTREAM | {"mirrors": f'[{{"password": "{SECRET}"'},
        UPSTREAM | {"mirrors": [{"password": SECRET}]},
        UPSTREAM | {"mirrors": [SECRET]},
        UPSTREAM | {"url": f"https://user:{SECRET}@registry.example"},
        UPSTREAM | {"http_proxy": f"socks5://way:{SECRET}@proxy.example"},
        UPSTREAM | {"http_proxy": f"way:{SECRET}@proxy.example"},
        f'{{"registry.example": {{"password": "{SECRET}"',
        f"password={SECRET}",
        f'["{SECRET}"]',
    ],
)
def test_an_error_in_the_configuration_shows_no_secret(upstream: object) -> None:
    with pytest.raises(SettingsError) as caught:
        load(Configuration, None, variables(upstream))
    assert SECRET not in str(caught.value)
