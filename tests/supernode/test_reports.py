"""Sums and rates of what nodes report."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.protocol import PeerId
from supernode.report import HeldImage, ManifestParts, OriginUse, Report
from supernode.reports import ReportBook, hit_ratio, saved

ONE, TWO = PeerId("1" * 32), PeerId("2" * 32)
MIB = 1 << 20


def report(uptime: float = 1.0, *, origin: int = 0, store: int = 0, peers: int = 0, registry: str = "a.test") -> Report:
    return Report(uptime, peers_in=peers, served_store=store, served_peers=peers, origins=[OriginUse(registry, origin)])


def test_sums_go_on_when_a_node_has_gone_and_when_it_comes_back() -> None:
    book = ReportBook(0.0)
    book.take(ONE, report(origin=5 * MIB), 10.0)
    book.leave(ONE)
    assert book.totals["origin_in"] == 5 * MIB
    book.take(ONE, report(origin=7 * MIB), 20.0)
    assert book.totals["origin_in"] == 7 * MIB
    assert book.origins == {"a.test": 7 * MIB}


def test_what_a_node_did_before_this_supernode_began_is_not_of_its_time() -> None:
    book = ReportBook(100.0)
    book.take(ONE, report(uptime=50.0, origin=5 * MIB), 101.0)
    book.take(ONE, report(uptime=51.0, origin=6 * MIB), 102.0)
    assert book.totals["origin_in"] == MIB


def test_rates_are_those_between_the_last_reports_and_go_with_their_node() -> None:
    book = ReportBook(0.0)
    book.take(ONE, report(), 1.0)
    book.take(ONE, report(origin=4 * MIB, peers=2 * MIB), 3.0)
    book.take(TWO, report(), 1.0)
    book.take(TWO, report(origin=MIB, registry="b.test"), 2.0)
    assert (book.rates()["origin_in"], book.rates()["peers_in"]) == (3 * MIB, MIB)
    assert book.origin_rates() == {"a.test": 2 * MIB, "b.test": MIB}
    book.leave(ONE)
    assert book.origin_rates() == {"b.test": MIB}


def test_two_reports_at_the_same_moment_make_no_rate_of_their_own() -> None:
    book = ReportBook(0.0)
    book.take(ONE, report(), 1.0)
    book.take(ONE, report(origin=MIB), 1.001)
    assert book.rates()["origin_in"] == 0
    book.take(ONE, report(origin=2 * MIB), 2.0)
    assert book.rates()["origin_in"] == 2 * MIB


def test_one_absurd_report_does_not_spoil_the_sums() -> None:
    book = ReportBook(0.0)
    book.take(ONE, report(), 1.0)
    book.take(ONE, report(origin=1 << 53), 2.0)
    assert book.totals["origin_in"] < 1 << 40


def test_a_registry_named_like_a_figure_is_not_taken_for_it() -> None:
    book = ReportBook(0.0)
    book.take(ONE, report(origin=MIB, registry="requests"), 1.0)
    assert book.totals["requests"] == 0
    assert book.totals["origin_in"] == MIB


def test_images_stay_as_they_were_told_last_and_manifests_are_taken_where_they_were_asked_for() -> None:
    book = ReportBook(0.0)
    image, parts = HeldImage("sha256:x", 1), ManifestParts("sha256:x", "", [])
    book.take(ONE, Report(1.0), 1.0)
    assert not book.tell_images
    book.take(ONE, Report(1.0, images=[image], manifests=[parts]), 2.0, ["sha256:y"])
    book.take(ONE, Report(2.0), 3.0)
    known = book.get(ONE)
    assert known is not None
    assert known.images == (image,)
    assert book.tell_images
    assert not book.manifests
    book.take(ONE, Report(2.0, manifests=[parts]), 4.0, ["sha256:x"])
    assert list(book.manifests) == ["sha256:x"]


@given(
    st.lists(st.tuples(st.sampled_from([ONE, TWO]), st.booleans(), st.integers(0, 50), st.integers(0, 50)), max_size=30)
)
def test_sums_are_those_of_all_nodes_whatever_comes_and_goes(events: list[tuple[PeerId, bool, int, int]]) -> None:
    book, counts, now = ReportBook(0.0), {ONE: (0, 0), TWO: (0, 0)}, 0.0
    for peer, leaves, origin, store in events:
        now += 1.0
        counts[peer] = counts[peer][0] + origin, counts[peer][1] + store
        book.take(peer, report(now - 0.5, origin=counts[peer][0], store=counts[peer][1]), now)
        if leaves:
            book.leave(peer)
    assert book.totals["origin_in"] == sum(origin for origin, _ in counts.values())
    assert book.totals["served_store"] == sum(store for _, store in counts.values())
    assert saved(book.totals) == max(0, book.totals["served_store"] - book.totals["origin_in"])


def test_the_hit_ratio_is_of_what_clients_were_given() -> None:
    assert hit_ratio(ReportBook(0.0).totals) is None
    totals = {"served_store": 2, "served_peers": 1, "served_origin": 1, "origin_in": 1}
    assert hit_ratio(totals) == pytest.approx(0.75)


def test_what_came_from_an_origin_ahead_of_its_client_is_no_hit() -> None:
    totals = {"served_store": 9, "served_peers": 0, "served_origin": 1, "origin_in": 10}
    assert (hit_ratio(totals), saved(totals)) == (0.0, 0)
    assert hit_ratio(totals | {"origin_in": 20}) == 0.0
