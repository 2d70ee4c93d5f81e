"""Orders: what is taken can be told to nodes, which cut a connection that brings them what they cannot read."""

from __future__ import annotations

import msgspec
import pytest

from supernode import protocol
from supernode.preheating.jobs import Job
from supernode.preheating.order import PreheatOrder
from tests.supernode.preheating.conftest import World

LONGEST = f"{'r' * 254}:65535/{'a' * 255}:{'t' * 128}@sha256:{'0' * 64}"


def test_the_longest_order_can_be_told(world: World) -> None:
    platforms = [f"{'o' * 32}/{'a' * 32}/{number:032}" for number in range(16)]
    taken = msgspec.json.decode(
        msgspec.json.encode({"images": [LONGEST], "platforms": platforms, "pin": True}), type=PreheatOrder
    )
    world.board()
    job = Job.begin("j" * 12, taken, [world.join("a")], "me", 0.0, pin_owner=f"schedule:{'n' * 64}")
    (told,) = job.decide(1.0)
    assert protocol.from_supernode.decode(protocol.from_supernode.encode(told.message)) == told.message


@pytest.mark.parametrize(
    "order",
    [
        {"images": [f"{'r' * 300}/a"]},
        {"images": [f"[{':' * 300}]/a"]},
        {"images": ["a"], "platforms": [f"linux/{'a' * 200}"]},
        {"images": ["a"], "platforms": ["linux/amd64"] * 17},
        {"images": ["a"], "platforms": ["linux/\x1b[2J"]},
        {"images": ["a"], "rate": 1000},
        {"images": ["a"], "concurrency": 0},
        {"images": ["a"], "nodes": "0"},
        {"images": [f"a:{number}" for number in range(1001)]},
    ],
)
def test_what_could_not_be_told_is_no_order(order: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(order), type=PreheatOrder)
