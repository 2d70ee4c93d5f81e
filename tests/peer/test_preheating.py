"""What no client waits for stands back as long as a client's blob comes, and becomes one when a client asks for it."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from peer import wire
from peer.commands import Command, Fail, Fetch, Send, Tell
from peer.errors import DownloadFailed
from peer.machine import Machine, MachineSettings
from shoal.descriptor import BlobKey
from shoal.digest import Digest
from shoal.pieces import PIECE_DIGEST_SIZE, PieceLayout, to_bitfield
from shoal.reference import Location
from supernode import protocol
from supernode.protocol import PeerId

AT = Location.parse("docker.io", "library/base")
OTHER = PeerId("b" * 32)
PREHEATED, PULLED = (BlobKey(Digest.of(name), 4 << 20) for name in (b"preheated", b"pulled"))
LAYOUT = PieceLayout.of(4 << 20)
DIGEST = bytes(PIECE_DIGEST_SIZE)


class Nothing:
    def holds(self, blob: BlobKey) -> bool:
        return False

    def holdings(self) -> Iterable[BlobKey]:
        return []


@pytest.fixture
def machine() -> Machine:
    """With a supernode, and a neighbour that has all of both blobs once they are opened."""
    machine = Machine(MachineSettings(), Nothing(), random.Random(1), 0.0)
    machine.joined(5.0, 0.0)
    return machine


def preheat(machine: Machine, now: float) -> None:
    machine.open([(PREHEATED, 0, {})], AT, now, preheats=True)


def pull(machine: Machine, now: float) -> None:
    machine.open([(PULLED, 0, {})], AT, now)
    machine.demand(PULLED, AT, now)


def offer(machine: Machine, blob: BlobKey, now: float) -> None:
    """The neighbour has the whole blob, and its pieces can be checked."""
    table = protocol.TableNews(*blob, to_bitfield(LAYOUT.all, LAYOUT.count), DIGEST * LAYOUT.count)
    machine.heard(table, now)
    if OTHER not in machine.exchange.sharing.told:
        machine.arrived(OTHER, now)
    machine.said(OTHER, wire.Join([wire.Joined(*blob)]), now)


def requests(commands: list[Command]) -> list[wire.Request]:
    return [each.message for each in commands if isinstance(each, Send) and isinstance(each.message, wire.Request)]


def wanted(commands: list[Command]) -> list[protocol.Wanted]:
    opened = [each.message for each in commands if isinstance(each, Tell) and isinstance(each.message, protocol.Open)]
    return [blob for message in opened for blob in message.blobs]


def test_what_is_preheated_is_asked_for_as_such(machine: Machine) -> None:
    preheat(machine, 0.0)
    offer(machine, PREHEATED, 0.0)
    commands = machine.take(0.0)
    assert [each.preheats for each in wanted(commands)] == [True]
    assert requests(commands)
    assert all(each.preheats for each in requests(commands))


def test_it_stands_back_when_a_client_pulls_and_goes_on_when_that_is_there(machine: Machine) -> None:
    preheat(machine, 0.0)
    offer(machine, PREHEATED, 0.0)
    before = requests(machine.take(0.0))
    pull(machine, 1.0)
    commands = machine.take(1.0)
    cancelled = {
        each.message.piece for each in commands if isinstance(each, Send) and isinstance(each.message, wire.Cancel)
    }
    assert cancelled == {each.piece for each in before}
    told = [(each.digest, each.on_demand, each.preheats) for each in wanted(commands)]
    assert {(PREHEATED.digest, True, True), (PULLED.digest, False, False)} <= set(told)
    assert not requests(commands)
    offer(machine, PULLED, 1.1)
    assert {each.digest for each in requests(machine.take(1.1))} == {PULLED.digest}

    machine.verified(PULLED, 2.0)
    machine.tick(2.1)
    commands = machine.take(2.1)
    assert [(each.digest, each.on_demand) for each in wanted(commands)] == [(PREHEATED.digest, False)]
    assert {each.digest for each in requests(commands)} == {PREHEATED.digest}


def test_a_pull_to_which_nothing_comes_holds_nothing_back(machine: Machine) -> None:
    preheat(machine, 0.0)
    offer(machine, PREHEATED, 0.0)
    pull(machine, 0.0)
    assert not requests(machine.take(0.0))
    machine.tick(2.5)
    assert {each.digest for each in requests(machine.take(2.5))} == {PREHEATED.digest}


def test_a_client_that_asks_for_it_makes_it_a_pull_at_once(machine: Machine) -> None:
    preheat(machine, 0.0)
    machine.take(0.0)
    machine.demand(PREHEATED, AT, 1.0)
    assert [each.preheats for each in wanted(machine.take(1.0))] == [False]
    offer(machine, PREHEATED, 1.1)
    assert not any(each.preheats for each in requests(machine.take(1.1)))


def test_a_lease_that_comes_too_late_is_given_back(machine: Machine) -> None:
    preheat(machine, 0.0)
    pull(machine, 1.0)
    machine.take(1.0)
    machine.heard(protocol.Grant(7, *PREHEATED, AT.registry, AT.repository, 0, 4), 1.1)
    commands = machine.take(1.1)
    released = [each.message for each in commands if isinstance(each, Tell)]
    assert [each.lease for each in released if isinstance(each, protocol.Release)] == [7]
    assert not [each for each in commands if isinstance(each, Fetch)]


def test_what_is_cooled_is_given_up_unless_a_client_waits_for_it(machine: Machine) -> None:
    preheat(machine, 0.0)
    machine.cool(PREHEATED, DownloadFailed("cancelled"))
    assert [each.blob for each in machine.take(0.0) if isinstance(each, Fail)] == [PREHEATED]
    preheat(machine, 1.0)
    machine.demand(PREHEATED, AT, 1.0)
    machine.cool(PREHEATED, DownloadFailed("cancelled"))
    assert PREHEATED in machine.sought


def test_a_limit_holds_requests_for_what_is_preheated_alone(machine: Machine) -> None:
    machine.exchange.preheat.change(LAYOUT.piece_size, 0.0)
    preheat(machine, 0.0)
    offer(machine, PREHEATED, 0.0)
    assert len(requests(machine.take(0.0))) == 1
    pull(machine, 0.1)
    offer(machine, PULLED, 0.1)
    assert len(requests(machine.take(0.1))) > 2
