"""Who is told to have brought a blob."""

from __future__ import annotations

from peer.arrivals import Arrivals, Brought, Delivery
from peer.tally import Supplier
from shoal.digest import Digest

BLOB = Digest.of(b"blob")
ORIGIN, PEER = Supplier("docker.io", is_origin=True), Supplier(32 * "a", is_origin=False)


def made() -> Arrivals:
    return Arrivals(lambda peer: f"place of {peer[:2]}")


def test_what_came_before_a_blob_was_given_up_and_after_it_was_sought_again_is_one_sum() -> None:
    arrivals, first, second = made(), Delivery(), Delivery()
    arrivals.came(BLOB, first, ORIGIN, 10, 1.0)
    arrivals.came(BLOB, second, ORIGIN, 20, 2.0)
    arrivals.came(BLOB, second, PEER, 5, 3.0)
    assert arrivals.since(BLOB, 0.5) == (
        Brought("docker.io", is_origin=True, bytes=30),
        Brought("place of aa", is_origin=False, bytes=5),
    )


def test_what_came_long_ago_is_not_told_of_a_later_pull() -> None:
    arrivals, long_ago, lately = made(), Delivery(), Delivery()
    arrivals.came(BLOB, long_ago, PEER, 10, 1.0)
    arrivals.came(BLOB, lately, ORIGIN, 20, 100.0)
    assert arrivals.since(BLOB, 50.0) == (Brought("docker.io", is_origin=True, bytes=20),)
    assert arrivals.since(BLOB, 200.0) == ()
    assert arrivals.since(Digest.of(b"other"), 0.0) == ()
