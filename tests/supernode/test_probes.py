from __future__ import annotations

import random

from supernode.handout import Contact
from supernode.probes import Probes
from supernode.protocol import Call, Outcome, PeerId, Probe, Probed, Visit, Visited

A, B, C, D = (PeerId(32 * letter) for letter in "abcd")
CONTACTS = {
    A: Contact("10.0.0.1", 5081, ""),
    B: Contact("10.0.0.1", 5082, ""),
    C: Contact("10.0.0.3", 5081, ""),
    D: Contact("10.0.0.4", 5081, ""),
}


def probes(*peers: PeerId) -> Probes:
    made = Probes(random.Random(1))
    for peer in peers:
        made.join(peer, 0.0)
    return made


def test_two_members_at_other_hosts_are_sent_to_the_address_that_others_are_told() -> None:
    told = probes(A, B, C, D).ask(A, Probe(7), CONTACTS, 0.0)
    assert {peer for peer, _ in told} == {C, D}
    for _, message in told:
        assert isinstance(message, Visit)
        assert (message.peer, message.host, message.port) == (A, "10.0.0.1", 5081)


def test_the_answer_comes_when_both_have_told() -> None:
    made = probes(A, C, D)
    sent = made.ask(A, Probe(7), CONTACTS, 0.0)
    visits = {peer: message.visit for peer, message in sent if isinstance(message, Visit)}
    assert made.visited(C, Visited(visits[C], Outcome.REACHED)) == []
    calls = [Call(C, "10.0.0.3", 5081, Outcome.REACHED), Call(D, "10.0.0.4", 5081, Outcome.SILENT)]
    assert made.visited(D, Visited(visits[D], Outcome.SILENT)) == [(A, Probed(7, "10.0.0.1", 5081, 2, calls))]


def test_only_who_was_sent_is_heard_and_only_about_what_there_is_to_tell() -> None:
    made = probes(A, C)
    ((_, visit),) = made.ask(A, Probe(7), CONTACTS, 0.0)
    assert isinstance(visit, Visit)
    assert made.visited(D, Visited(visit.visit, Outcome.SILENT)) == []
    assert made.visited(C, Visited(visit.visit + 1, Outcome.SILENT)) == []
    ((_, answer),) = made.visited(C, Visited(visit.visit, "\x1b[31mrubbish"))
    assert isinstance(answer, Probed)
    assert answer.calls == []


def test_nobody_else_nobody_able_and_nobody_in_time_are_answers_too() -> None:
    assert probes(A).ask(A, Probe(1), {A: CONTACTS[A]}, 0.0) == [(A, Probed(1, "10.0.0.1", 5081, 0))]
    made = probes(A, C)
    assert len(made.ask(A, Probe(2), CONTACTS, 0.0)) == 1
    assert made.expire(2.9) == []
    assert made.expire(3.0) == [(A, Probed(2, "10.0.0.1", 5081, 2))]


def test_a_visitor_that_leaves_is_not_waited_for_and_an_asker_that_leaves_is_not_answered() -> None:
    made = probes(A, C)
    made.ask(A, Probe(1), CONTACTS, 0.0)
    assert [peer for peer, _ in made.leave(C)] == [A]
    made = probes(A, C)
    made.ask(A, Probe(1), CONTACTS, 0.0)
    assert made.leave(A) == []
    assert made.expire(100.0) == []


def test_who_asks_too_often_sends_nobody() -> None:
    made = probes(A, C)
    sent = [len([1 for _, each in made.ask(A, Probe(n), CONTACTS, 0.0) if isinstance(each, Visit)]) for n in range(4)]
    assert sent == [1, 1, 0, 0]
    assert [peer for peer, _ in made.ask(A, Probe(9), CONTACTS, 5.0)] == [C]


def test_all_together_send_no_more_than_so_many_a_second() -> None:
    peers = [PeerId(f"{number:032x}") for number in range(100)]
    contacts = {peer: Contact(f"10.0.1.{place}", 1, "") for place, peer in enumerate(peers)}
    made = probes(*peers)
    visits = [message for peer in peers for _, message in made.ask(peer, Probe(1), contacts, 0.0)]
    assert sum(isinstance(message, Visit) for message in visits) == 2 * 32
