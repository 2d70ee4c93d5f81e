"""Which requests make one pull, where its time went, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.account import Account, Cause
from peer.arrivals import Brought
from proxy.explanation import WORDS, explanation, summary, verdict
from proxy.pulls import CLIENT_LEFT, MAX_PULLS, MAX_REQUESTS, MAX_WEIGHT, Client, Pull, Pulls, Record
from proxy.timeline import Timeline
from shoal.digest import Digest
from shoal.reference import Location, Tag

DOCKER, OTHER = Client("127.0.0.1", "docker/28.1"), Client("127.0.0.1", "containerd/2.0")
AT, ELSEWHERE = Location.parse("docker.io", "library/made"), Location.parse("docker.io", "library/other")
LATEST = Tag("latest")
INDEX, MANIFEST, LAYER, SECOND = (Digest.of(name) for name in (b"index", b"manifest", b"layer", b"second"))
MB = 1_000_000


@dataclass
class World:
    brought: dict[Digest, Sequence[Brought]] = field(default_factory=dict)
    now: float = 100.0

    def __post_init__(self) -> None:
        self.pulls = Pulls(lambda digest, _: self.brought.get(digest, ()))

    @property
    def all(self) -> list[Pull]:
        return list(self.pulls)

    def begin(
        self, reference: Tag | Digest, kind: str = "blob", client: Client = DOCKER, at: Location = AT
    ) -> tuple[Record, Account]:
        account = Account(self.now)
        return self.pulls.begin(client, at, kind, "GET", reference, account, 1e9 + self.now), account

    def ask(self, reference: Tag | Digest, *named: Digest, client: Client = DOCKER, at: Location = AT) -> None:
        """A manifest, in no time."""
        record, account = self.begin(reference, "manifest", client, at)
        record.names(reference if isinstance(reference, Digest) else MANIFEST, named)
        account.gave("store", 10, self.now)
        record.end(200, 10, self.now)

    def fetch(self, digest: Digest, waits: dict[Cause, float], size: int = MB, status: int = 200) -> None:
        record, account = self.begin(digest)
        for cause, seconds in waits.items():
            account.turn(cause, self.now)
            self.now += seconds
        account.gave("origin", size, self.now)
        record.end(status, size, self.now)


def test_a_manifest_and_what_it_names_are_one_pull() -> None:
    world = World()
    world.ask(LATEST, MANIFEST)
    world.ask(MANIFEST, LAYER)
    world.fetch(LAYER, {Cause.ORIGIN: 1.0})
    (pull,) = world.all
    assert [request.reference for request in pull.requests] == [LATEST, MANIFEST, LAYER]
    assert (pull.image, pull.digest) == ("docker.io/library/made:latest", MANIFEST)


def test_clients_and_repositories_are_told_apart() -> None:
    world = World()
    world.ask(LATEST, LAYER)
    world.ask(LATEST, LAYER, client=OTHER)
    world.ask(LATEST, LAYER, at=ELSEWHERE)
    world.begin(LAYER, client=OTHER)
    assert [len(pull.requests) for pull in world.all] == [1, 2, 1]


def test_the_same_image_pulled_again_is_another_pull() -> None:
    world = World()
    for _ in range(2):
        world.ask(LATEST, LAYER)
        world.fetch(LAYER, {})
    assert [len(pull.requests) for pull in world.all] == [2, 2]


def test_a_client_that_comes_back_after_long_has_begun_anew() -> None:
    world = World()
    world.ask(LATEST, LAYER)
    world.now += 61.0
    world.fetch(LAYER, {})
    assert [pull.reference for pull in world.all] == [LAYER, LATEST]


def test_the_last_pull_of_an_image_is_found_by_its_tag_or_its_digest() -> None:
    world = World()
    world.ask(LATEST, LAYER)
    world.ask(Tag("other"), LAYER, at=ELSEWHERE)
    assert world.pulls.last(AT, LATEST) is world.pulls.last(AT, MANIFEST) is world.all[1]
    assert world.pulls.last(None, None) is world.all[0]
    assert world.pulls.last(AT, Tag("never")) is None


def test_what_is_remembered_is_bounded() -> None:
    world = World()
    for number in range(MAX_PULLS + 5):
        world.ask(Tag(f"t{number}"))
    assert len(world.all) == MAX_PULLS
    for _ in range(MAX_REQUESTS + 5):
        world.ask(MANIFEST)
    (pull, *_) = world.all
    assert (len(pull.requests), pull.left_out) == (MAX_REQUESTS, 6)
    assert pull.given == {"store": 10 * (MAX_REQUESTS + 6)}


def test_many_large_pulls_leave_room_for_fewer() -> None:
    world = World()
    for number in range(30):
        named = [Digest.of(b"%d.%d" % (number, place)) for place in range(5000)]
        world.ask(Tag(f"t{number}"), *named)
    assert sum(pull.weight for pull in world.all) <= MAX_WEIGHT + 5100
    assert world.all[0].reference == "t29"


EVENTS = st.lists(
    st.tuples(st.sampled_from(["open", "close", "turn"]), st.integers(0, 4), st.sampled_from(Cause), st.floats(0, 10)),
    max_size=40,
)


@given(EVENTS)
def test_each_moment_of_a_pull_counts_once(events: list[tuple[str, int, Cause, float]]) -> None:
    now = 10.0
    timeline, accounts = Timeline(now), dict[int, Account]()
    for event, number, cause, passed in events:
        now += passed
        account = accounts.get(number)
        if event == "open" and account is None:
            accounts[number] = account = Account(now)
            timeline.open(account, now)
        elif event == "close" and account is not None:
            timeline.close(accounts.pop(number), now)
        elif account is not None:
            account.turn(cause, now)
    for account in accounts.values():
        timeline.close(account, now)
    assert sum(timeline.seconds.values()) == pytest.approx(timeline.ended_at - 10.0)


def test_that_others_wait_while_bytes_move_costs_nothing() -> None:
    timeline, one, two = Timeline(0.0), Account(0.0), Account(0.0)
    timeline.open(one, 0.0)
    timeline.open(two, 0.0)
    one.turn(Cause.ORIGIN, 0.0)
    two.turn(Cause.LEASE, 0.0)
    one.turn(Cause.TOKEN, 3.0)
    timeline.close(one, 5.0)
    timeline.close(two, 6.0)
    assert timeline.seconds == {Cause.ORIGIN: 3.0, Cause.TOKEN: 1.0, Cause.LEASE: 2.0}


def test_the_client_s_own_time_between_requests_is_told() -> None:
    world = World()
    world.ask(LATEST, LAYER, SECOND)
    world.fetch(LAYER, {Cause.ORIGIN: 1.0})
    world.now += 4.0
    world.fetch(SECOND, {Cause.ORIGIN: 1.0})
    (pull,) = world.all
    assert pull.timeline.seconds[Cause.BETWEEN] == pytest.approx(4.0)
    assert "4.0 s of that were spent between the client's requests" in verdict(pull, world.now)


def test_a_verdict_names_the_longest_cause_its_request_and_the_sources() -> None:
    world = World()
    world.brought[SECOND] = [Brought("docker.io", is_origin=True, bytes=MB)]
    world.brought[LAYER] = [Brought(f"10.0.0.{place}:5081", is_origin=False, bytes=2 * MB) for place in (1, 2)]
    world.ask(LATEST, LAYER, SECOND)
    world.fetch(LAYER, {Cause.HANDOUT: 0.2, Cause.PEERS: 1.0}, 4 * MB)
    world.fetch(SECOND, {Cause.ORIGIN_ANSWER: 4.0}, MB)
    assert verdict(world.all[0], world.now) == (
        "It took 5.2 s. 4.0 s of that were spent waiting for the origin's first byte (blob 2 of 2, "
        f"{SECOND[:19]}). Of 5 MB, 80% came from 2 neighbours and 20% from the origin docker.io, at 962 kB/s."
    )


def test_what_came_twice_is_not_told_as_more_than_was_given() -> None:
    world = World()
    world.brought[LAYER] = [Brought("a", is_origin=True, bytes=3 * MB), Brought("b", is_origin=False, bytes=MB)]
    world.ask(LATEST, LAYER)
    world.fetch(LAYER, {Cause.ORIGIN: 1.0}, MB)
    told = summary(world.all[0], world.now)["sources"]
    assert told == [
        {"kind": "origin", "name": "a", "bytes": 750_000},
        {"kind": "peer", "name": "b", "bytes": 250_000},
        {"kind": "store", "name": "", "bytes": 10},
    ]


def test_ranges_of_one_blob_share_what_came_of_it() -> None:
    world = World()
    world.ask(LATEST, LAYER)
    for part in (1, 2, 3):
        world.brought[LAYER] = [Brought("docker.io", is_origin=True, bytes=part * MB)]
        world.fetch(LAYER, {Cause.ORIGIN: 1.0}, MB, 206)
    told = summary(world.all[0], world.now)["sources"]
    assert told == [
        {"kind": "origin", "name": "docker.io", "bytes": 3 * MB},
        {"kind": "store", "name": "", "bytes": 10},
    ]


def test_what_comes_to_a_pull_that_runs_is_told_of_who_brings_it() -> None:
    world = World()
    world.ask(LATEST, LAYER)
    _, account = world.begin(LAYER)
    world.brought[LAYER] = [Brought("docker.io", is_origin=True, bytes=2 * MB)]
    account.gave("store", MB, world.now)
    assert "100% came from the origin docker.io" in verdict(world.all[0], world.now + 1.0)


def test_a_pull_that_runs_is_told_as_far_as_it_is() -> None:
    world = World()
    world.ask(LATEST, LAYER)
    _, account = world.begin(LAYER)
    account.turn(Cause.ORIGIN_STALLED, world.now)
    told = explanation(world.all[0], world.now + 7.0)
    assert told["running"] is True
    assert str(told["verdict"]).startswith("It is running since 7.0 s. 7.0 s of that were spent waiting for the origin")


@pytest.mark.parametrize(("status", "size", "failed"), [(200, MB, 0), (200, 2 * MB, 1), (502, 0, 1), (499, MB, 1)])
def test_requests_that_did_not_end_well_are_told(status: int, size: int, failed: int) -> None:
    world = World()
    world.ask(LATEST, LAYER)
    record, account = world.begin(LAYER)
    account.gave("origin", MB if status == 200 else 0, world.now)
    record.end(status, size, world.now)
    assert summary(world.all[0], world.now)["failed"] == failed


def test_who_is_asked_who_he_is_has_failed_where_that_is_the_last_word() -> None:
    world = World()
    for _ in range(2):
        record, _ = world.begin(LATEST, "manifest")
        record.end(401, 155, world.now, "docker.io wants to know who asks")
    (pull,) = world.all
    assert "1 of 2 requests did not end well (401 Unauthorized: docker.io wants" in verdict(pull, world.now)
    world.ask(LATEST, LAYER)
    assert summary(pull, world.now)["failed"] == 0


def test_each_cause_has_words() -> None:
    assert set(WORDS) == set(Cause)


@pytest.mark.parametrize(
    ("status", "size", "why", "said"),
    [
        (404, 156, "", "404 Not Found"),
        (502, 156, "docker.io is away", "502 Bad Gateway: docker.io is away"),
        (599, 0, "", "599"),
        (0, 0, "", "never answered"),
        (200, 2 * MB, "it broke off", "cut short: it broke off"),
        (CLIENT_LEFT, 2 * MB, "", "its client left"),
    ],
)
def test_how_a_request_failed_is_said_in_words(status: int, size: int, why: str, said: str) -> None:
    world = World()
    record, account = world.begin(LAYER)
    account.gave("origin", min(size, MB), world.now)
    record.end(status, size, world.now, why)
    assert f"1 of 1 requests did not end well ({said})." in verdict(world.all[0], world.now)


def test_of_many_reasons_some_are_told() -> None:
    world = World()
    for number in range(5):
        record, _ = world.begin(LAYER)
        record.end(502, 0, world.now, f"reason {number}")
    (pull, *_) = world.all
    pull.requests = [request for each in world.all for request in each.requests]
    ends = "; ".join(f"502 Bad Gateway: reason {number}" for number in range(3))
    assert f"5 of 5 requests did not end well ({ends}; and 2 other reasons)." in verdict(pull, world.now)
