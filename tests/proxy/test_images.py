"""Which images a store holds, and how much of each."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from peer.eviction import Kept, Stock
from peer.references import Names, References
from proxy.images import StoredImage, StoredPlatform, stored_images
from shoal.descriptor import InvalidManifest, Manifest
from shoal.digest import Digest


class Shelf:
    """A store's blobs by their content, used in the order in which they came."""

    def __init__(self) -> None:
        self.contents: dict[Digest, bytes] = {}

    def put(self, content: bytes | dict[str, Any]) -> dict[str, Any]:
        """Store a blob; its descriptor."""
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.contents[Digest.of(raw)] = raw
        return described(raw)

    def drop(self, descriptor: Mapping[str, Any]) -> None:
        del self.contents[Digest(descriptor["digest"])]

    def images(
        self,
        names: Mapping[Digest, Sequence[str]] | None = None,
        pins: Mapping[Digest, Collection[str]] | None = None,
    ) -> list[StoredImage]:
        blobs = {digest: Kept(len(raw), float(place)) for place, (digest, raw) in enumerate(self.contents.items())}
        known = {}
        for digest, raw in self.contents.items():
            try:
                known[digest] = Names.of(Manifest.parse(raw))
            except InvalidManifest:
                continue
        stock = Stock(blobs, {}, {}, References(known), pins or {}, (), ())
        return stored_images(stock, pins or {}, lambda _: names or {}, self.contents.get)


def described(raw: bytes) -> dict[str, Any]:
    return {"digest": Digest.of(raw), "size": len(raw)}


def image(*layers: Mapping[str, Any], config: Mapping[str, Any], **more: object) -> dict[str, Any]:
    return {"schemaVersion": 2, "config": config, "layers": list(layers), **more}


def offered(descriptor: Mapping[str, Any], os: str, architecture: str, variant: str = "") -> dict[str, Any]:
    return {**descriptor, "platform": {"os": os, "architecture": architecture, "variant": variant}}


def test_an_index_shows_what_is_there_of_each_platform() -> None:
    shelf = Shelf()
    base, config = shelf.put(b"base" * 100), shelf.put({"os": "linux", "architecture": "arm64", "variant": "v8"})
    absent = described(b"a layer that was not pulled")
    here = shelf.put(image(base, absent, config=config))
    elsewhere = described(b"the manifest of another platform")
    attestation = shelf.put(image(config=shelf.put(b"{}")))
    index = shelf.put(
        {
            "schemaVersion": 2,
            "manifests": [
                offered(here, "linux", "arm64", "v8"),
                offered(elsewhere, "linux", "amd64"),
                offered(attestation, "unknown", "unknown"),
            ],
        }
    )
    (found,) = shelf.images({index["digest"]: ["docker.io/library/made:1"]})
    stored = here["size"] + base["size"] + config["size"]
    assert found.references == ("docker.io/library/made:1",)
    assert found.platforms == (StoredPlatform("linux/arm64/v8", here["digest"], 3, 1, stored, absent["size"]),)
    assert (found.digest, found.other_platforms, found.complete) == (index["digest"], ("linux/amd64",), False)
    assert found.bytes == sum(map(len, shelf.contents.values()))


def test_a_single_image_has_the_platform_of_its_configuration() -> None:
    shelf = Shelf()
    config = shelf.put({"os": "linux", "architecture": "riscv64"})
    made = shelf.put(image(config=config))
    (found,) = shelf.images()
    assert [platform.platform for platform in found.platforms] == ["linux/riscv64"]
    assert (found.complete, found.references) == (True, ())
    shelf.drop(config)
    (found,) = shelf.images()
    assert [(each.platform, each.missing) for each in found.platforms] == [("", 1)]
    assert found.digest == made["digest"]


def test_what_several_images_need_is_shared() -> None:
    shelf = Shelf()
    base, config = shelf.put(b"base" * 100), shelf.put(b'{"os": 7}')
    older = shelf.put(image(base, config=config))
    newer = shelf.put(image(base, shelf.put(b"more"), config=config))
    found = shelf.images()
    assert [each.digest for each in found] == [newer["digest"], older["digest"]], "those used last come first"
    assert {each.shared_bytes for each in found} == {base["size"] + config["size"]}
    assert found[0].used == "1970-01-01T00:00:04+00:00"


def test_an_index_alone_is_not_complete() -> None:
    shelf = Shelf()
    shelf.put({"schemaVersion": 2, "manifests": [offered(described(b"not pulled"), "linux", "amd64")]})
    (found,) = shelf.images()
    assert (found.complete, found.platforms, found.other_platforms) == (False, (), ("linux/amd64",))


def test_signatures_belong_to_what_they_sign() -> None:
    shelf = Shelf()
    made = shelf.put(image(config=shelf.put(b"{}")))
    shelf.put(image(config=shelf.put(b" {}"), subject=made))
    (found,) = shelf.images(pins={made["digest"]: ("by hand",)})
    assert (found.digest, found.referrers, found.pinned) == (made["digest"], 1, ("by hand",))
    assert len(found.platforms) == 1


def test_an_index_that_names_itself_ends() -> None:
    """A manifest whose content changed behind the store's back may name anything."""
    index = Digest.of(b"itself")
    content = json.dumps({"schemaVersion": 2, "manifests": [{"digest": index, "size": 6}]}).encode()
    stock = Stock({index: Kept(6, 0.0)}, {}, {}, References({index: Names((index,))}), (), (), ())
    (found,) = stored_images(stock, {}, lambda _: {}, {index: content}.get)
    assert (found.digest, found.complete) == (index, False)
