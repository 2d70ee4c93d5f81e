"""What a node does that is to preheat an image, by a registry and a store that are played here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import pytest

from peer.disk import StoreFull
from peer.origin import OriginDenied, OriginNotFound, OriginUnavailable
from peer.store import Store
from peer.supply import Supply
from proxy.preheating import Preheating
from proxy.reading import ImageReader
from shoal.descriptor import OCI_INDEX, OCI_MANIFEST, BlobKind, Descriptor, Manifest, Platform
from shoal.digest import Digest
from shoal.platforms import own_platform
from shoal.reference import Location, Reference, Tag
from supernode import protocol

IMAGE = "registry.test:5000/team/app:1"
OTHER_PLATFORM = Platform("linux", "riscv64")
Children = Mapping[str, Platform | None]


def blob(name: str, size: int = 100) -> Descriptor:
    return Descriptor(Digest.of(name.encode()), size)


def named(name: str) -> Descriptor:
    return Descriptor(Digest.of(name.encode()), 10, kind=BlobKind.MANIFEST)


@dataclass
class Registry:
    """Manifests by tag and digest; what is stored is what was read of them."""

    manifests: dict[str, tuple[Descriptor, Manifest]] = field(default_factory=dict)
    about: dict[Digest, list[Tag | Digest]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Tags and digests of manifests."""
    stored: set[Digest] = field(default_factory=set)
    pins: dict[Digest, tuple[str, ...]] = field(default_factory=dict)
    lacking: set[Digest] = field(default_factory=set)
    """Blobs that are not there at the end."""
    failure: Exception | None = None
    hold: asyncio.Event | None = None
    store_fault = "the disk is full"
    is_pulling = False

    def put(self, name: str, *blobs: Descriptor, tag: str = "", children: Children | None = None) -> Digest:
        found = named(name)
        entries = tuple((named(child), platform) for child, platform in (children or {}).items())
        manifest = Manifest(OCI_INDEX if entries else OCI_MANIFEST, blobs, entries)
        for key in filter(None, (found.digest, tag)):
            self.manifests[key] = found, manifest
        return found.digest

    # --- as what a node reads of images

    def locate(self, reference: Reference) -> Location:
        return Location(reference.registry, reference.repository)

    async def manifest(self, _: Location, reference: Tag | Digest) -> tuple[Descriptor, Manifest]:
        self.asked.append(reference)
        if reference not in self.manifests:
            raise OriginNotFound(f"there is no {reference}")
        self.stored.add(self.manifests[reference][0].digest)
        return self.manifests[reference]

    async def referrers(self, _: Location, subject: Digest) -> list[Tag | Digest]:
        return self.about.get(subject, [Tag("not-there.sig")])

    async def tags(self, _: Location, pattern: str, most: int) -> list[Tag]:
        if pattern == "broken*":
            raise OriginUnavailable("no answer")
        return [Tag("2"), Tag("1")][:most]

    # --- as what holds blobs

    async def preheat(self, wanted: Descriptor, _: Location) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            raise self.failure
        self.stored.add(wanted.digest)

    def arrived(self, wanted: Descriptor) -> int:
        return wanted.size if wanted.digest in self.stored else 0

    def is_sound(self, digest: Digest) -> bool:
        return digest in self.stored - self.lacking

    def size(self, digest: Digest) -> int | None:
        return 1 if digest in self.stored else None

    def pin(self, digest: Digest, name: str) -> None:
        self.pins[digest] = (*self.pins.get(digest, ()), name)

    def unpin(self, wanted: str) -> None:
        self.pins = {digest: tuple(name for name in names if name != wanted) for digest, names in self.pins.items()}


class Pins:
    """The store's side of a registry, whose `pins` is a method there."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.size, self.pin, self.unpin = registry.size, registry.pin, registry.unpin

    def pins(self) -> dict[Digest, tuple[str, ...]]:
        return self._registry.pins


@dataclass
class World:
    registry: Registry
    preheating: Preheating
    told: list[protocol.FromPeer]
    rates: list[float]

    async def ended(self, message: protocol.Preheat) -> protocol.PreheatProgress:
        """What is told last of an order."""
        self.preheating.hear(message)
        return await self.told_until(lambda each: each.state in {"done", "failed", "cancelled"})

    async def told_until(self, is_it: Callable[[protocol.PreheatProgress], bool]) -> protocol.PreheatProgress:
        async with asyncio.timeout(5):
            while True:
                for each in self.told:
                    if isinstance(each, protocol.PreheatProgress) and is_it(each):
                        return each
                await asyncio.sleep(0)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    registry, told, rates = Registry(), list[protocol.FromPeer](), list[float]()
    reader, supply, store = cast("ImageReader", registry), cast("Supply", registry), cast("Store", Pins(registry))
    async with Preheating(reader, supply, store, told.append, rates.append) as preheating:
        yield World(registry, preheating, told, rates)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


def order(**more: object) -> protocol.Preheat:
    return protocol.Preheat("job", IMAGE, **more)  # type: ignore[arg-type]


async def test_an_image_of_several_comes_for_the_own_platform(world: World) -> None:
    layer, other = blob("layer"), blob("other")
    world.registry.put("own", layer)
    world.registry.put("foreign", other)
    root = world.registry.put("index", tag="1", children={"foreign": OTHER_PLATFORM, "own": own_platform()})
    progress = await world.ended(order())
    assert (progress.state, progress.digest, progress.arrived, progress.size) == ("done", root, 120, 120)
    assert other.digest not in world.registry.stored


@pytest.mark.parametrize(("platforms", "blobs"), [(["all"], 2), (["linux/riscv64"], 1)])
async def test_platforms_are_those_that_were_ordered(world: World, platforms: list[str], blobs: int) -> None:
    world.registry.put("own", blob("layer"))
    world.registry.put("foreign", blob("other"))
    world.registry.put("index", tag="1", children={"foreign": OTHER_PLATFORM, "own": own_platform()})
    assert (await world.ended(order(platforms=platforms))).state == "done"
    assert len({blob("layer").digest, blob("other").digest} & world.registry.stored) == blobs


async def test_an_index_without_platforms_belongs_together(world: World) -> None:
    """As a list of signatures that was pushed."""
    for name in ("one", "two"):
        world.registry.put(name, blob(f"of {name}"))
    world.registry.put("list", tag="1", children={"one": None, "two": None})
    progress = await world.ended(order())
    assert (progress.state, progress.blobs) == ("done", 5)


async def test_an_index_may_name_another_one(world: World) -> None:
    world.registry.put("own", blob("layer"))
    world.registry.put("inner", children={"own": own_platform()})
    world.registry.put("outer", tag="1", children={"inner": own_platform()})
    progress = await world.ended(order())
    assert (progress.state, progress.blobs, blob("layer").digest in world.registry.stored) == ("done", 4, True)
    for depth in range(4):
        world.registry.put(f"deep {depth}", children={"inner" if not depth else f"deep {depth - 1}": own_platform()})
    world.registry.put("deepest", tag="1", children={"deep 3": own_platform()})
    world.told.clear()
    assert (await world.ended(order())).error == "more than 4 indexes stand one below the other"


async def test_what_several_indexes_name_is_read_once(world: World) -> None:
    """Else whoever has pushed a few small indexes could have nodes ask for ever."""
    world.registry.put("0 0", blob("layer"))
    for depth in range(1, 4):
        for number in range(20):
            below = range(20) if depth > 1 else (0,)
            world.registry.put(f"{depth} {number}", children={f"{depth - 1} {each}": None for each in below})
    world.registry.put("root", tag="1", children={f"3 {number}": None for number in range(20)})
    assert (await world.ended(order(referrers=False))).state == "done"
    assert len(world.registry.asked) == 1 + 3 * 20 + 1


async def test_an_image_of_endless_blobs_is_refused(world: World) -> None:
    for number in range(70):
        world.registry.put(f"{number}", *(blob(f"{number} {each}") for each in range(1000)))
    world.registry.put("root", tag="1", children={f"{number}": None for number in range(70)})
    assert (await world.ended(order(referrers=False))).error == "more than 65536 blobs belong to it"


async def test_a_platform_that_is_not_there_is_named(world: World) -> None:
    world.registry.put("own", blob("layer"))
    world.registry.put("index", tag="1", children={"own": own_platform()})
    progress = await world.ended(order(platforms=["linux/s390x"]))
    assert (progress.state, progress.again) == ("failed", False)
    assert progress.error == f"there is no image for linux/s390x (there is: {own_platform()})"


async def test_signatures_and_what_is_about_these_come_too(world: World) -> None:
    root = world.registry.put("image", blob("layer"), tag="1")
    sbom = world.registry.put("sbom", blob("all that is in it"))
    signature = world.registry.put("signature", blob("signed"), tag="of-sbom.sig")
    world.registry.about = {root: [sbom], sbom: [Tag("of-sbom.sig")]}
    progress = await world.ended(order())
    assert (progress.state, progress.referrers, progress.blobs) == ("done", 2, 6)
    assert {sbom, signature, blob("signed").digest} <= world.registry.stored
    world.registry.stored.clear()
    world.told.clear()
    progress = await world.ended(order(referrers=False))
    assert (progress.state, progress.referrers, sbom in world.registry.stored) == ("done", 0, False)


async def test_what_a_list_below_a_tag_names_and_is_gone_keeps_nothing_else_away(world: World) -> None:
    root = world.registry.put("image", blob("layer"), tag="1")
    sbom = world.registry.put("sbom", blob("all that is in it"))
    world.registry.put("list", tag="list", children={"gone": own_platform(), "sbom": own_platform()})
    world.registry.about = {root: [Tag("list")], sbom: [Tag("list")]}
    progress = await world.ended(order())
    assert (progress.state, progress.referrers, sbom in world.registry.stored) == ("done", 2, True)


async def test_so_many_referrers_that_nobody_means_them_are_not_asked_for(world: World) -> None:
    root = world.registry.put("image", blob("layer"), tag="1")
    listed = {f"signature {number}": own_platform() for number in range(64)}
    for name in listed:
        world.registry.put(name, blob(name))
    world.registry.put("list", tag="list", children=listed)
    world.registry.about = {root: [Tag("list")]}
    progress = await world.ended(order())
    assert progress.error == "more than 64 manifests refer to it (`referrers` may be left out)"
    assert Digest.of(b"signature 0") not in world.registry.stored


async def test_what_is_not_sound_at_the_end_is_not_done(world: World) -> None:
    world.registry.put("image", blob("layer"), tag="1")
    world.registry.lacking = {blob("layer").digest}
    progress = await world.ended(order(pin="a name"))
    assert (progress.state, progress.error) == ("failed", "1 of 2 blobs are not in the store: the disk is full")
    assert world.registry.pins == {}


@pytest.mark.parametrize(
    ("failure", "says", "again"),
    [
        (OriginUnavailable("a reset"), "a reset", True),
        (OriginDenied("401"), "the registry refuses this node: 401", False),
        (StoreFull("no room"), "the store does not take it: no room", False),
        (KeyError("a fault"), "a fault inside; the node's log says which", True),
    ],
)
async def test_a_failure_says_whether_it_may_pass(world: World, failure: Exception, says: str, again: bool) -> None:
    world.registry.put("image", blob("layer"), tag="1")
    world.registry.failure = failure
    progress = await world.ended(order())
    assert (progress.state, progress.error, progress.again) == ("failed", says, again)


async def test_a_pin_goes_with_its_name(world: World) -> None:
    before = world.registry.put("before", blob("layer"), tag="1")
    assert (await world.ended(order(pin="schedule:base image"))).state == "done"
    after = world.registry.put("after", blob("other layer"), tag="1")
    world.told.clear()
    assert (await world.ended(order(pin="schedule:base image"))).state == "done"
    assert {digest: names for digest, names in world.registry.pins.items() if names} == {
        after: ("schedule:base image",)
    }
    assert before in world.registry.stored


async def test_pins_of_an_owner_are_let_go_that_it_keeps_no_more(world: World) -> None:
    digest = world.registry.put("image", tag="1")
    world.registry.pins = {digest: ("schedule:base a", "schedule:base b", "schedule:other a", "by hand")}
    world.preheating.hear(protocol.KeepPins("schedule:base", ["schedule:base b"]))
    await eventually(lambda: "schedule:base a" not in world.registry.pins[digest])
    assert world.registry.pins[digest] == ("schedule:base b", "schedule:other a", "by hand")


async def test_an_order_that_is_heard_again_is_answered_and_one_that_is_cancelled_stops(world: World) -> None:
    world.registry.put("image", blob("layer"), tag="1")
    world.registry.hold = asyncio.Event()
    world.preheating.hear(order(rate=5_000_000))
    await eventually(lambda: world.rates[-1:] == [5_000_000])
    world.preheating.hear(order(rate=5_000_000))
    assert [each.state for each in world.told if isinstance(each, protocol.PreheatProgress)] == ["running"]
    world.preheating.hear(protocol.CancelPreheat("job", IMAGE))
    await world.told_until(lambda each: each.state == "cancelled")
    assert world.rates[-1] == 0
    world.told.clear()
    world.preheating.hear(protocol.CancelPreheat("job", IMAGE))
    await world.told_until(lambda each: each.state == "cancelled")


async def test_one_that_is_cancelled_before_it_began_stops(world: World) -> None:
    world.preheating.hear(order())
    world.preheating.hear(protocol.CancelPreheat("job", IMAGE))
    await world.told_until(lambda each: each.state == "cancelled")
    world.registry.put("image", tag="1")
    world.told.clear()
    assert (await world.ended(order())).state == "done"


async def test_tags_are_listed_or_it_is_said_why_not(world: World) -> None:
    world.preheating.hear(protocol.ListTags(1, "registry.test:5000", "team/app", "*"))
    world.preheating.hear(protocol.ListTags(2, "registry.test:5000", "team/app", "broken*"))
    await eventually(lambda: len(world.told) == 2)
    assert world.told == [protocol.Tags(1, ["2", "1"]), protocol.Tags(2, error="no answer")]
