"""What is taken out of texts that others read."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.redaction import redacted

SECRET = "s3cr3t-of-alice-which-nobody-else-knows"
BASIC = base64.b64encode(f"alice:{SECRET}".encode()).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"http://alice:{SECRET}@proxy.example:3128",
        f"Unclosed connection: ConnectionKey(proxy=URL('http://alice:{SECRET}@proxy.example:3128'))",
        f"https://cdn.example/blob?X-Amz-Signature={SECRET}&X-Amz-Expires=300",
        f"400, message='no', url='https://cdn.example/blob?sig={SECRET}'",
        f"//alice:{SECRET}@host/path?x={SECRET}://",
        f"Authorization: Bearer {SECRET}",
        f"authorization=bearer  {SECRET}, next",
        f"{{'Authorization': 'Basic {BASIC}'}}",
    ],
)
def test_secrets_are_masked_and_the_rest_stays(text: str) -> None:
    told = redacted(text)
    assert SECRET not in told
    assert BASIC not in told
    assert "***" in told


@pytest.mark.parametrize(
    "text",
    [
        "a Basic Authorization that does not parse",
        "https://registry.example:5000/v2/ does not answer",
        "is this an address? https://registry.example",
        "cannot connect to 127.0.0.1:5000: refused",
        "/v2/team/app/blobs/sha256:abc",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


@given(st.text())
def test_a_second_look_finds_nothing_more(text: str) -> None:
    assert redacted(redacted(text)) == redacted(text)
