"""What a daemon finds in its files: settings, credentials, the store's folder and its databases, whoever wrote them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from peer.disk import Stamp, StoreError
from peer.index import Entry, Index, names_in
from peer.pins import PINS, Pins
from peer.references import Names
from peer.store import Store
from proxy.catalogue import CATALOGUE, Catalogue, KnownTag
from proxy.credentials import NodeCredentials
from proxy.rules import RuleBook, Rules
from proxy.settings import EndpointSettings
from shoal.cli.configuration import Configuration
from shoal.descriptor import BlobKind, Descriptor
from shoal.digest import Digest, InvalidDigest
from shoal.reference import Location, Tag, parse_registry
from shoal.settings import SettingsError, load
from tests.fuzz.target import Target

_STARTS = 2
CONTENT = b"content"
DIGEST = Digest.of(CONTENT)
PLACE = Location.parse("docker.io", "library/a")
IMAGES = [Location.parse("docker.io", "a" * 200), PLACE, Location.parse("quay.io", "a-a/a.a")]


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """An empty folder; by its end all is closed that was opened meanwhile."""
    open_before = _open_descriptors()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        yield Path(name)
    assert _open_descriptors() == open_before


def _open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - what `Path.iterdir` gives is no cheaper


def in_a_file(read: Callable[[Path], object], name: str = "file") -> Callable[[bytes], None]:
    """A target whose bytes `read` finds in a file."""

    def run(data: bytes) -> None:
        with folder() as place:
            (place / name).write_bytes(data)
            read(place / name)

    return run


def settings(file: Path) -> None:
    with contextlib.suppress(SettingsError):
        load(Configuration, file, {})


def variables(data: bytes) -> None:
    """The environment: `NAME=value` in lines, as the system hands it over."""
    pairs = (line.partition(b"=") for line in data.replace(b"\0", b"").split(b"\n"))
    with contextlib.suppress(SettingsError):
        load(Configuration, None, {f"SHOAL_{os.fsdecode(name)}": os.fsdecode(value) for name, _, value in pairs})


def admission(file: Path) -> None:
    with contextlib.suppress(SettingsError):
        rules = Rules(load(RuleBook, file, {}))
        for image in IMAGES:
            for asked in (Tag("a" * 128), DIGEST, None):
                rules.check(image, asked)


def credentials(file: Path) -> None:
    """`config.json` as docker writes it; no helper that it names is installed."""

    async def read() -> None:
        for registry in ("docker.io", "registry.example:5000"):
            node = NodeCredentials(parse_registry(registry), EndpointSettings(docker_config=str(file)), lambda: 0.0)
            found = await node.get()
            assert found is None or found.is_shared
            await node.close()

    asyncio.run(read())


def index(file: Path) -> None:
    """Whatever `index.sqlite` is: it is read or made anew, and takes what is added; where the damage shows only when
    something is written, that is lost, and the next start makes it anew."""
    entry, names, made = Entry(Stamp(1, 2, 3), 4.0, 5.0), Names((DIGEST,)), Index(file)
    try:
        found = made.open()
        for text in found.manifests.values():
            with contextlib.suppress(InvalidDigest):
                names_in(text, {})
        made.remove(found.blobs)
        for _ in range(_STARTS):
            made.add(DIGEST, entry, names)
            made.close()
            found = made.open()
            if DIGEST in found.blobs:
                break
        assert (found.blobs[DIGEST], names_in(found.manifests[DIGEST], {})) == (entry, names)
    finally:
        made.close()


def pins(file: Path) -> None:
    """Whatever `pins.json` is: it is read or put aside, and takes what is added."""
    made = Pins(file.parent, file.parent)
    made.load()
    with contextlib.suppress(StoreError):
        for digest in list(made.names):
            made.remove(digest)
    made.add(DIGEST, "name")
    made.load()
    assert made.names == {DIGEST: ("name",)}


def catalogue(file: Path) -> None:
    """Whatever `catalogue.sqlite` is: it is read or made anew, and takes what is added."""
    known = KnownTag(PLACE, Tag("latest"), "", Descriptor(DIGEST, 7, "", BlobKind.MANIFEST))

    async def use() -> None:
        async with Catalogue(file) as first:
            first.remember(known)
            first.name(PLACE, [known.descriptor])
        async with Catalogue(file) as second:
            assert known in second.tags
            assert await second.named(PLACE, DIGEST) == known.descriptor.size

    asyncio.run(use())


_PLACES = [
    "oci-layout",
    "index.json",
    "index.sqlite",
    "index.sqlite-wal",
    "pins.json",
    "lock",
    "quarantine",
    f"quarantine/sha256-{DIGEST.hex}",
    "partial",
    f"partial/sha256-{DIGEST.hex}-{len(CONTENT)}.data",
    f"partial/sha256-{DIGEST.hex}-{len(CONTENT)}.state",
    f"partial/sha256-{DIGEST.hex}.state",
    "partial/a.tmp",
    "blobs",
    "blobs/sha256",
    "blobs/sha512",
    f"blobs/sha256/{DIGEST.hex}",
    f"blobs/sha512/{2 * DIGEST.hex}",
    "blobs/sha256/\udcff",
]


def store(data: bytes) -> None:
    """A store's folder in which anything may stand anywhere: three bytes say what stands where."""
    with folder() as outside:
        (outside / "secret").write_bytes(b"secret")
        root = outside / "store"
        for step in range(0, len(data) - 2, 3):
            _place(root / _PLACES[data[step] % len(_PLACES)], data[step + 1], data[step + 2 :][:40], outside)
        opened = Store(root)
        with contextlib.suppress(StoreError):
            opened.open()
            list(opened.recheck())
            list(opened.verify())
            for key in opened.resumable():
                with contextlib.suppress(StoreError):
                    opened.partial(key).close()
            for digest, size in opened.digests():
                with contextlib.suppress(StoreError):
                    if (blob := opened.open_blob(digest)) is not None:
                        with blob:
                            found = os.pread(blob.fd, size, 0)
                        assert len(found) == size
                        assert Digest.of(found) == digest or digest.algorithm == "sha512"
            with contextlib.suppress(StoreError):
                opened.put(DIGEST, CONTENT)
                assert opened.size(DIGEST) == len(CONTENT)
        opened.close()
        assert (outside / "secret").read_bytes() == b"secret"


def _place(path: Path, kind: int, content: bytes, outside: Path) -> None:
    """A file, a folder, a link or a FIFO at `path`, if the folders above let it be."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        match kind % 8 if not os.path.lexists(path) else None:  # to write to a FIFO would take a reader
            case 0 | 1:
                path.write_bytes(content)
            case 2:
                path.write_bytes(CONTENT)
            case 3:
                path.mkdir()
            case 4:
                path.symlink_to(outside / "secret")
            case 5:
                path.symlink_to(outside)
            case 6:
                path.symlink_to(path.name)
            case 7:
                os.mkfifo(path)


TARGETS = [
    # what the operator writes may take quadratic time: TOML with dotted keys does, and so does guessing the key meant
    Target("settings", in_a_file(settings), 40_000, pumped=False),
    Target("variables", variables, 25_000, pumped=False),
    Target("admission", in_a_file(admission), 40_000, pumped=False),
    Target("credentials", in_a_file(credentials), 20_000, pumped=False),
    Target("pins", in_a_file(pins, PINS), 20_000, pumped=False),
    Target("index", in_a_file(index), 20_000, limit=32 << 10, pumped=False),
    Target("catalogue", in_a_file(catalogue, CATALOGUE), 10_000, limit=48 << 10, pumped=False),
    Target("store", store, 20_000, limit=96, pumped=False),
]
