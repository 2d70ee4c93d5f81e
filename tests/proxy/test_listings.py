from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from peer.origin import OriginNotFound
from proxy.listings import next_page
from proxy.upstream import Listing
from shoal.digest import Digest
from shoal.reference import Location

if TYPE_CHECKING:
    from tests.proxy.conftest import Front


async def test_tags_come_from_the_origin(front: Front) -> None:
    body = b'{"name":"a/b","tags":["1","2"]}'
    link = '</v2/a/b/tags/list?last=2&n=2>; rel="next"'
    front.origin.list = Listing(body, {"Content-Type": "application/json; charset=utf-8", "Link": link})
    answer = await front.ask("/v2/a/b/tags/list?n=2&ns=quay.io&other=x")
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Link"] == '</v2/a/b/tags/list?n=2&last=2&ns=quay.io>; rel="next"'
    assert front.origin.listed == [(Location.parse("quay.io", "a/b"), "tags/list", {"n": "2"})]


async def test_referrers_come_from_the_origin(front: Front) -> None:
    subject = Digest.of(b"x")
    front.origin.list = Listing(b"{}", {"OCI-Filters-Applied": "artifactType"})
    answer = await front.ask(f"/v2/quay.io/a/b/referrers/{subject}?artifactType=t")
    assert (answer.status, answer.headers["OCI-Filters-Applied"]) == (200, "artifactType")
    assert front.origin.listed == [(Location.parse("quay.io", "a/b"), f"referrers/{subject}", {"artifactType": "t"})]


async def test_what_the_origin_does_not_have(front: Front) -> None:
    front.origin.error = OriginNotFound("no")
    answer = await front.ask("/v2/a/b/tags/list")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")


@pytest.mark.parametrize("link", ["", "nonsense", '</x>; rel="prev"', '<//[x>; rel="next"'])
def test_a_link_that_leads_nowhere_is_dropped(link: str) -> None:
    assert next_page(link, URL("/v2/a/tags/list")) is None


@given(st.text(max_size=80))
def test_any_link_is_survived_and_stays_here(link: str) -> None:
    page = next_page(f"<{link}>; rel=next", URL("/v2/a/tags/list?ns=quay.io"))
    assert page is None or page.startswith("</v2/a/tags/list?")
