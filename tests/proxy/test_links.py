from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.links import Link, parse_links

NEXT = frozenset({"next"})


@pytest.mark.parametrize(
    ("header", "links"),
    [
        ('</v2/a/b/tags/list?next_page=tok2>; rel="next"', [Link("/v2/a/b/tags/list?next_page=tok2", NEXT)]),
        ("</x>;rel=next", [Link("/x", NEXT)]),
        ("< /x > ; REL = Next ; title=a", [Link("/x", NEXT)]),
        ('</x>; title="a, b; rel=prev"; rel="next"', [Link("/x", NEXT)]),
        (r'</x>; title="a \" b"; rel="next"', [Link("/x", NEXT)]),
        ('</x>; rel="last  Next https://a.example/r"', [Link("/x", NEXT | {"last", "https://a.example/r"})]),
        ('</x>; rel="prev"; rel="next"', [Link("/x", frozenset({"prev"}))]),
        ('</a>; rel=prev, </b?x=1,2;3>; rel="next"', [Link("/a", frozenset({"prev"})), Link("/b?x=1,2;3", NEXT)]),
        ("</a>,,</b>;;rel=next", [Link("/a", frozenset()), Link("/b", NEXT)]),
        ("</a>; rel", [Link("/a", frozenset())]),
        ("</a>; rel=", [Link("/a", frozenset())]),
        ("</a>; hreflang*=UTF-8''x; rel=next", [Link("/a", NEXT)]),
        ("<>; rel=next", [Link("", NEXT)]),
        ("", []),
        ("/x; rel=next", []),
        ("<x; rel=next", []),
        ('</a>; rel="next', [Link("/a", frozenset())]),
    ],
)
def test_every_form_of_rfc_8288(header: str, links: list[Link]) -> None:
    assert parse_links([header]) == links


def test_several_headers_are_read_in_order() -> None:
    assert [link.target for link in parse_links(["</a>; rel=prev", "nonsense", "</b>; rel=next"])] == ["/a", "/b"]


@given(st.lists(st.text("<>;,=\" \\relnxta*'/?&\t", max_size=60), max_size=3))
def test_any_header_is_survived(headers: list[str]) -> None:
    for link in parse_links(headers):
        assert "<" not in link.target


@given(st.text("abc/?=&%,; ", max_size=30).map(str.strip), st.sampled_from(["next", "prev", "first last"]))
def test_what_is_written_is_read(target: str, relation: str) -> None:
    assert parse_links([f'<{target}>; rel="{relation}"']) == [Link(target, frozenset(relation.split()))]


def test_a_huge_header_is_read_in_linear_time() -> None:
    for header in ('</a>; rel="' + "\\" * 1_000_000, "</a>" + ";" * 1_000_000, "<" * 1_000_000, "</a>; a=b" * 100_000):
        parse_links([header])
