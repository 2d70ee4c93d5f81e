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


async def test_tags_come_from_the_origin_with_all_of_the_query(front: Front) -> None:
    body = b'{"name":"a/b","tags":["1","2"]}'
    links = ('</v2/a/b/tags/list?next_page=tok2&n=2>; rel="next"',)
    front.origin.list = Listing(body, {"Content-Type": "application/json; charset=utf-8"}, links)
    answer = await front.ask("/v2/a/b/tags/list?n=2&ns=quay.io&other=x%2Fy")
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Link"] == '</v2/a/b/tags/list?next_page=tok2&n=2&ns=quay.io>; rel="next"'
    assert front.origin.listed == [(Location.parse("quay.io", "a/b"), "tags/list", "n=2&other=x%2Fy")]


async def test_referrers_come_from_the_origin(front: Front) -> None:
    subject = Digest.of(b"x")
    front.origin.list = Listing(b"{}", {"OCI-Filters-Applied": "artifactType"})
    answer = await front.ask(f"/v2/quay.io/a/b/referrers/{subject}?artifactType=t")
    assert (answer.status, answer.headers["OCI-Filters-Applied"]) == (200, "artifactType")
    assert front.origin.listed == [(Location.parse("quay.io", "a/b"), f"referrers/{subject}", "artifactType=t")]


@pytest.mark.parametrize(("told", "code"), [("", "UNSUPPORTED"), ("NAME_UNKNOWN", "NAME_UNKNOWN")])
async def test_an_origin_without_referrers_makes_clients_ask_for_the_tag(front: Front, told: str, code: str) -> None:
    front.origin.error = OriginNotFound("no such endpoint", told)
    answer = await front.ask(f"/v2/quay.io/a/b/referrers/{Digest.of(b'x')}")
    assert (answer.status, answer.code) == (404, code)


async def test_what_the_origin_does_not_have(front: Front) -> None:
    front.origin.error = OriginNotFound("no")
    answer = await front.ask("/v2/a/b/tags/list")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")


@pytest.mark.parametrize(
    "query", ["n=x", "n=-1", "n=", "n=1.5", "n=%FF", "n=99999999999", f"last={'a' * 5000}", "last=%0a"]
)
async def test_a_query_that_makes_no_sense(front: Front, query: str) -> None:
    answer = await front.ask(f"/v2/a/b/tags/list?{query}")
    assert (answer.status, answer.code) == (400, "PAGINATION_NUMBER_INVALID")
    assert front.origin.listed == []


async def test_a_catalog_is_shown_where_the_configuration_says_so(front: Front) -> None:
    assert (await front.ask("/v2/_catalog?n=5&ns=quay.io")).status == 200
    assert front.origin.listed == [("quay.io", "_catalog", "n=5")]
    answer = await front.ask("/v2/_catalog")
    assert (answer.status, answer.code) == (404, "UNSUPPORTED")


@pytest.mark.parametrize(
    ("links", "page"),
    [
        ([], None),
        (["nonsense"], None),
        (["</x>; rel=prev"], None),
        (['<?n=1>; title="a, <b>; rel=next"; REL="prev Next"'], "n=1"),
        (["</a?x=1>; rel=first, </b?x=2>;rel=next"], "x=2"),
        (["</a?x=1>; rel=last", "<https://other.example/v2/z/tags/list?last=a%26b>;rel=next"], "last=a%26b"),
        (['</a?x=1>; rel=prev; rel="next"'], None),
        (["<//[x?y=1>; rel=next"], "y=1"),
        (["</v2/a/tags/list?ns=evil.example&last=b>; rel=next"], "last=b"),
        (["</v2/a/tags/list?last=\udcff>; rel=next"], None),  # a byte that is not UTF-8
    ],
)
def test_the_next_page(links: list[str], page: str | None) -> None:
    expected = None if page is None else f'</v2/a/tags/list?{page}>; rel="next"'
    assert next_page(links, URL("/v2/a/tags/list")) == expected


@given(st.text(max_size=80))
def test_any_link_is_survived_and_stays_here(link: str) -> None:
    for header in (link, f"<{link}>; rel=next"):
        page = next_page([header], URL("/v2/a/tags/list?ns=quay.io"))
        assert page is None or page.startswith("</v2/a/tags/list?")
        assert page is None or page.isascii()
