"""How many requests may be outstanding, and whom to leave alone."""

from __future__ import annotations

from peer.requests import START_DEPTH, WIDE_DEPTH, Requests, Silence
from shoal.pieces import MIB
from supernode.protocol import PeerId

A, B = PeerId("a"), PeerId("b")


def answered(requests: Requests, peer: PeerId, at: float, seconds: float) -> None:
    """A request goes out and its piece comes so many seconds later."""
    requests.sent(peer, at)
    requests.over(peer)
    requests.done(peer, at, MIB, at + seconds)


def test_a_request_is_late_when_it_takes_twice_as_long_as_usual() -> None:
    requests = Requests()
    assert not requests.is_late(0.0, 9.0), "nothing is usual yet"
    answered(requests, A, 0.0, 1.0)
    assert not requests.is_late(1.0, 2.9)
    assert requests.is_late(1.0, 3.1)


def test_requests_are_spread_over_all_sources() -> None:
    requests = Requests()
    for sources, depth, most in ((0, START_DEPTH, START_DEPTH), (1, START_DEPTH, START_DEPTH), (15, START_DEPTH, 1)):
        requests.sources = sources
        assert (requests.depth, requests.most_at_one) == (depth, most)


def test_with_many_neighbours_more_requests_are_outstanding() -> None:
    requests = Requests()
    depths = []
    for requests.sources in (15, 20, 50, 100):
        depths.append(requests.depth)
    assert depths[0] == START_DEPTH < depths[1] < depths[2] == depths[3] == WIDE_DEPTH


def test_a_neighbour_that_is_silent_for_long_is_stuck_and_one_that_sends_is_not() -> None:
    requests = Requests()
    requests.sent(A, 0.0)
    requests.sent(B, 0.0)
    requests.moved(B, 3.5)
    assert requests.stuck(1.0) == []
    assert requests.stuck(4.0) == [A]
    requests.over(A)
    assert requests.stuck(4.0) == []


def test_a_busy_neighbour_rests_until_it_calls() -> None:
    requests = Requests()
    requests.busy(A, 0.0)
    assert requests.takers([A, B], 0.1) == [B]
    requests.ready(A)
    assert requests.takers([A, B], 0.1) == [A, B]
    requests.busy(A, 0.0)
    assert requests.takers([A, B], 1.0) == [A, B]


def test_a_neighbour_with_its_share_of_requests_takes_no_more() -> None:
    requests = Requests()
    requests.sources = START_DEPTH
    requests.sent(A, 0.0)
    assert requests.takers([A, B], 0.0) == [B]


def test_who_turns_everything_away_for_long_is_doubtful_until_it_gives_something() -> None:
    requests = Requests()
    for tenth in range(35):
        requests.busy(A, tenth / 10)
    assert requests.is_doubtful(A, 3.5)
    assert not requests.is_doubtful(B, 3.5)
    answered(requests, A, 3.5, 0.1)
    assert not requests.is_doubtful(A, 3.6)


def test_who_is_silent_again_and_again_is_left_alone_for_longer_until_it_gives_something() -> None:
    requests = Requests()
    requests.leave_alone(A, 0.0)
    assert requests.is_doubtful(A, 9.9)
    assert requests.takers([A], 9.9) == []
    assert not requests.is_doubtful(A, 10.1)
    requests.leave_alone(A, 10.1)
    assert requests.is_doubtful(A, 30.0)
    answered(requests, A, 31.0, 0.1)
    requests.leave_alone(A, 40.0)
    assert not requests.is_doubtful(A, 50.1)


def test_of_a_neighbour_that_is_gone_nothing_stays() -> None:
    requests = Requests()
    requests.leave_alone(A, 0.0)
    requests.drop(A, 0.0)
    assert requests.takers([A], 0.0) == [A]


def test_how_often_a_neighbour_was_silent_is_known_until_it_gives_a_piece_of_several_packets() -> None:
    requests = Requests()
    requests.leave_alone(A, 1.0)
    requests.drop(A, 2.0)
    requests.done(A, 3.0, 500, 3.1)
    requests.leave_alone(A, 9.0)
    assert requests.silences == {A: Silence(1.0, 9.0, 2)}
    requests.done(A, 10.0, 1 << 20, 10.1)
    assert requests.silences == {}


def test_who_breaks_claims_again_and_again_is_left_alone_for_longer_each_time() -> None:
    requests = Requests()
    requests.broke_claim(A, 0.0)
    requests.broke_claim(A, 0.0)
    assert requests.takers([A], 0.0) == [A], "an honest one may have lost two pieces"
    requests.broke_claim(A, 0.0)
    assert requests.takers([A], 9.0) == []
    assert requests.is_doubtful(A, 9.0)
    requests.broke_claim(A, 20.0)
    assert requests.takers([A], 39.0) == []
    assert requests.takers([A], 41.0) == [A]


def test_one_right_piece_makes_up_for_broken_claims() -> None:
    requests = Requests()
    for _ in range(4):
        requests.broke_claim(A, 0.0)
        requests.broke_claim(A, 0.0)
        requests.kept_claim(A)
    assert requests.takers([A], 0.0) == [A]


def test_who_broke_claims_does_not_win_by_coming_back_or_calling() -> None:
    requests = Requests()
    requests.broke_claim(A, 0.0, knowingly=True)
    requests.leave_alone(B, 0.0)
    for peer in (A, B):
        requests.drop(peer, 1.0)
        requests.ready(peer)
    assert requests.takers([A, B], 2.0) == [B]
    requests.drop(A, 11.0)
    assert not requests.is_doubtful(A, 0.0), "nothing is remembered of it"
