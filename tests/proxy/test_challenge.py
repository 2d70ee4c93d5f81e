from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.challenge import Challenge, parse_challenges

NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=8)
VALUES = st.text(st.characters(codec="latin-1"), max_size=30)
CHALLENGES = st.lists(st.builds(Challenge, NAMES, st.dictionaries(NAMES, VALUES, max_size=4)), max_size=4)


def write(challenge: Challenge) -> str:
    quoted = (
        name + '="' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for name, value in challenge.parameters.items()
    )
    return f"{challenge.scheme} {', '.join(quoted)}".rstrip(" ")


@given(CHALLENGES)
def test_what_is_written_is_read(challenges: list[Challenge]) -> None:
    assert parse_challenges([", ".join(map(write, challenges))]) == challenges
    assert parse_challenges(map(write, challenges)) == challenges


@given(st.lists(st.text(max_size=200), max_size=3))
def test_any_text_is_survived(headers: list[str]) -> None:
    parse_challenges(headers)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
            'scope="repository:samalba/my-app:pull,push"',
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:samalba/my-app:pull,push",
                    },
                )
            ],
        ),
        ("Basic", [Challenge("basic")]),
        ("Negotiate, Basic realm=r", [Challenge("negotiate"), Challenge("basic", {"realm": "r"})]),
        ("NTLM TlRMTVNTUAAC==, Bearer realm = x", [Challenge("ntlm"), Challenge("bearer", {"realm": "x"})]),
        ('BEARER REALM="a\\"b" , ,', [Challenge("bearer", {"realm": 'a"b'})]),
        ('Bearer realm="first", realm="second"', [Challenge("bearer", {"realm": "first"})]),
        ("", []),
        ("=", []),
    ],
)
def test_known_headers(header: str, expected: list[Challenge]) -> None:
    assert parse_challenges([header]) == expected


def test_a_huge_header_is_read_in_linear_time() -> None:
    parse_challenges(['Bearer realm="' + "\\" * 100_000, "a " * 100_000, "a=" * 100_000])
