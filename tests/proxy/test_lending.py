from __future__ import annotations

from proxy.identity import ANONYMOUS, Identity, node_identity
from proxy.lending import _MAX_CLIENTS, _MAX_LOCATIONS, LENT_SECONDS, Lending
from shoal.reference import Location

AT = Location.parse("registry.example", "team/app")
ELSEWHERE = Location.parse("registry.example", "team/other")
NODE = node_identity("deploy", "x")


def client(name: str) -> Identity:
    return Identity(f"client:{name}", f"Bearer {name}")


ALICE, BOB = client("alice"), client("bob")


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.lending = Lending(lambda: self.now)

    def order(self, node: Identity | None = None, location: Location = AT) -> list[Identity]:
        return self.lending.order(location, node)


def test_without_clients_this_node_is_asked_as_and_then_nobody() -> None:
    world = World()
    assert world.order() == [ANONYMOUS]
    assert world.order(NODE) == [NODE, ANONYMOUS]


def test_the_newest_client_goes_first_and_only_where_he_may_read() -> None:
    world = World()
    for each in (ALICE, BOB, ALICE):
        world.lending.lend(AT, each)
    assert world.order() == [ALICE, BOB, ANONYMOUS]
    assert world.order(NODE) == [NODE, ALICE, BOB, ANONYMOUS]
    assert world.order(location=ELSEWHERE) == [ANONYMOUS]


def test_who_was_served_last_is_asked_as_first() -> None:
    world = World()
    world.lending.lend(AT, ALICE)
    world.lending.served(AT, ALICE)
    assert world.order(NODE) == [ALICE, NODE, ANONYMOUS]
    world.lending.served(AT, ANONYMOUS)
    assert world.order(NODE) == [ANONYMOUS, NODE, ALICE]
    assert (world.lending.was_served(AT, ANONYMOUS), world.lending.was_served(AT, ALICE)) == (True, False)
    assert not world.lending.was_served(ELSEWHERE, ANONYMOUS)


def test_credentials_are_held_for_a_time_after_their_last_use() -> None:
    world = World()
    world.lending.lend(AT, ALICE)
    world.lending.lend(AT, BOB)
    world.now = LENT_SECONDS - 1
    world.lending.served(AT, ALICE)
    world.now = LENT_SECONDS
    assert world.order() == [ALICE, ANONYMOUS]
    world.now = 2 * LENT_SECONDS
    assert world.order() == [ANONYMOUS]
    world.lending.served(AT, ALICE)  # what had begun before is no reason to hold them anew
    assert world.order() == [ANONYMOUS]


def test_who_is_refused_is_not_asked_as_again() -> None:
    world = World()
    world.lending.lend(AT, ALICE)
    world.lending.lend(ELSEWHERE, ALICE)
    world.lending.refused(AT, ALICE)
    world.lending.refused(AT, BOB)
    assert world.order() == [ANONYMOUS]
    assert world.order(location=ELSEWHERE) == [ALICE, ANONYMOUS]


def test_what_is_held_is_bounded() -> None:
    world = World()
    for number in range(_MAX_CLIENTS + 5):
        world.lending.lend(AT, client(str(number)))
    assert len(world.order()) == _MAX_CLIENTS + 1
    for number in range(_MAX_LOCATIONS):
        world.lending.lend(Location.parse("registry.example", f"a/{number}"), ALICE)
    assert world.order() == [ANONYMOUS]
