"""The store against a model: whatever is done to it, in whatever order, with crashes, restarts and damage by others."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peer.eviction import GRACE_SECONDS, RECENT_SECONDS, victims
from peer.partial import Partial
from peer.references import Names
from peer.settings import CacheSettings
from peer.store import Store
from peer.storedblob import StoredBlob
from shoal.descriptor import BlobKey, Manifest
from shoal.digest import Digest
from shoal.pieces import KIB, piece_digest
from tests.peer.test_crash import Killed, Plug

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where a sync costs nothing."""
CACHE = CacheSettings(high="200KiB", low="150KiB", free="0")


def manifest(*named: bytes, subject: bytes | None = None) -> bytes:
    config, *layers = ({"digest": Digest.of(each), "size": len(each)} for each in named)
    about = {} if subject is None else {"subject": {"digest": Digest.of(subject), "size": len(subject)}}
    return json.dumps({"schemaVersion": 2, "config": config, "layers": layers, **about}).encode()


def index(*manifests: bytes) -> bytes:
    return json.dumps({"manifests": [{"digest": Digest.of(each), "size": len(each)} for each in manifests]}).encode()


LAYERS = [random.Random(number).randbytes(size * KIB) for number, size in enumerate((5, 20, 40, 60, 30, 270))]
FIRST, SECOND = manifest(LAYERS[0], LAYERS[1]), manifest(LAYERS[0], LAYERS[2])
SIGNATURE = manifest(LAYERS[4], subject=FIRST)
MANIFESTS = [FIRST, SECOND, manifest(LAYERS[3]), SIGNATURE, index(FIRST, SECOND)]
WORLD = {Digest.of(content): content for content in (*LAYERS, *MANIFESTS)}
NAMES = {Digest.of(content): Names.of(Manifest.parse(content)) for content in MANIFESTS}

blobs = st.sampled_from(sorted(WORLD))


def needed_by(kept: Collection[Digest], stored: Collection[Digest]) -> set[Digest]:
    """These and all that they need, as far as it is stored manifests that say so."""
    found, before = set(kept), set[Digest]()
    while found != before:
        before = set(found)
        for digest in NAMES.keys() & stored:
            names = NAMES[digest]
            if digest in found:
                found.update(names.named)
            if names.subject in found:
                found.add(digest)
    return found


class StoreLife(RuleBasedStateMachine):
    """`stored` is what the model says: each step may add and take only what it is allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.root = Path(self.folder.name)
        self.now = 1_000_000.0
        self.store = self.made()
        self.stored: set[Digest] = set()
        self.used: dict[Digest, float] = {}
        self.harmed: dict[Digest, str] = {}
        self.pins: dict[Digest, tuple[str, ...]] = {}
        self.partials: dict[Digest, Partial] = {}
        self.readers: list[tuple[Digest, StoredBlob]] = []
        self.fuse: int | None = None
        """So many changes to the disk come to their end before the process is killed."""

    def made(self) -> Store:
        return Store(self.root, CACHE, lambda: self.now)

    @initialize()
    def begin(self) -> None:
        self.store.open()

    # --- steps ----------------------------------------------------------------------------------------------------

    def act(
        self,
        action: Callable[[], object],
        *,
        gains: frozenset[Digest] = frozenset(),
        loses: frozenset[Digest] = frozenset(),
        evicts: bool = False,
    ) -> bool:
        """Do something; True where it came to its end. `evicts`: what nobody needs may go besides."""
        evictable = self.evictable(self.stored | gains) if evicts else set[Digest]()
        before = set(self.stored)
        came_to_its_end = True
        with pytest.MonkeyPatch.context() as patched:
            if self.fuse is not None:
                plug = Plug(self.fuse)
                for name in Plug.CALLS:
                    patched.setattr(os, name, plug.guard(getattr(os, name)))
            try:
                action()
            except Killed:
                came_to_its_end = False
        if not came_to_its_end:
            self.die()
        elif self.fuse is not None:
            self.fuse = None
        real = {digest for digest, _ in self.store.digests()}
        assert real - before <= gains
        lost = before - real
        assert lost <= loses | evictable | self.harmed.keys()
        if came_to_its_end:
            assert gains - evictable <= real | self.harmed.keys()
        evicted = lost - loses - self.harmed.keys()
        assert not evicted & needed_by(real & NAMES.keys(), before), "an image that stays is as whole as before"
        for digest in (lost | gains) & self.harmed.keys():
            if digest not in real or digest in gains:
                del self.harmed[digest]
        self.stored = real
        return came_to_its_end

    def evictable(self, stored: set[Digest]) -> set[Digest]:
        """What may go when the store needs room."""
        manifests = stored & NAMES.keys()
        waiting = {each for each in manifests if needed_by({each}, stored) & self.partials.keys()}
        in_use = needed_by(self.pins.keys(), stored) | waiting | {digest for digest, _ in self.readers}
        needed = needed_by(manifests, stored)
        return {
            digest
            for digest in stored - in_use
            if self.now - self.used.get(digest, 0.0) >= (RECENT_SECONDS if digest in needed else GRACE_SECONDS)
        }

    def die(self) -> None:
        """What the process knew and had not written down is gone."""
        self.store._inventory._noted.clear()
        self.used.clear()
        self.start_again()

    def start_again(self) -> None:
        self.fuse = None
        for partial in self.partials.values():
            partial.close()
        for _, reader in self.readers:
            reader.close()
        self.partials.clear()
        self.readers.clear()
        self.store.close()
        self.store = self.made()
        self.store.open()
        for digest, right in self.store.recheck():
            assert right or digest in self.harmed
        assert not list((self.root / "partial").glob("*.tmp"))
        assert {key.digest for key in self.store.resumable()} <= WORLD.keys()

    @rule()
    def restart(self) -> None:
        self.fuse = None
        self.act(self.start_again)

    @rule()
    def crash(self) -> None:
        self.fuse = None
        self.act(self.die)

    @precondition(lambda self: len(self.stored) > 3)
    @rule(calls=st.integers(0, 40))
    def be_killed_soon(self, calls: int) -> None:
        self.fuse = calls

    @rule(seconds=st.sampled_from([1.0, RECENT_SECONDS, GRACE_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(digest=blobs)
    def put(self, digest: Digest) -> None:
        is_new = digest not in self.stored
        gains = frozenset({digest} if is_new else ())
        if is_new:
            self.used[digest] = self.now
        self.act(lambda: self.store.put(digest, WORLD[digest]), gains=gains, evicts=True)

    @rule(image=st.sampled_from(sorted(NAMES)), waits=st.booleans(), comes_to_its_end=st.booleans())
    def pull(self, image: Digest, waits: bool, comes_to_its_end: bool) -> None:
        """A manifest, then what it names; the last of it may take a while."""
        *first, last = image, *NAMES[image].named
        for digest in first:
            self.put(digest)
        if comes_to_its_end:
            self.put(last)
        else:
            self.open_partial(last)
        if waits:
            self.now += GRACE_SECONDS

    @rule(size=st.sampled_from([60 * KIB, 120 * KIB, 200 * KIB]))
    def need_room_after_a_while(self, size: int) -> None:
        self.now += GRACE_SECONDS
        self.make_room(size)

    @rule(digest=blobs)
    def open_partial(self, digest: Digest) -> None:
        if digest in self.partials:
            return

        def open_it() -> None:
            self.partials[digest] = self.store.partial(BlobKey(digest, len(WORLD[digest])))

        self.act(open_it)

    @precondition(lambda self: self.partials)
    @rule(data=st.data(), calls_it_a_day=st.booleans())
    def write(self, data: st.DataObject, calls_it_a_day: bool) -> None:
        digest = data.draw(st.sampled_from(sorted(self.partials)))
        partial = self.partials[digest]
        index = data.draw(st.integers(0, partial.layout.count - 1))
        span = partial.layout.span(index)
        content = WORLD[digest][span.start : span.end]

        def write_it() -> None:
            partial.write(index, content)
            partial.mark(index, piece_digest(content))
            if calls_it_a_day:
                partial.checkpoint()

        self.act(write_it)

    @precondition(lambda self: any(each.have == each.layout.all for each in self.partials.values()))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        whole = sorted(digest for digest, each in self.partials.items() if each.have == each.layout.all)
        digest = data.draw(st.sampled_from(whole))
        partial = self.partials[digest]
        self.used[digest] = self.now
        if self.act(lambda: partial.finish(), gains=frozenset({digest}), evicts=True):
            partial.close()
            del self.partials[digest]

    @precondition(lambda self: self.partials)
    @rule(data=st.data(), keep=st.booleans())
    def leave(self, data: st.DataObject, keep: bool) -> None:
        digest = data.draw(st.sampled_from(sorted(self.partials)))
        partial = self.partials[digest]
        if self.act(partial.checkpoint if keep else partial.abort):
            partial.close()
            self.partials.pop(digest)

    @rule(digest=blobs, hold=st.booleans())
    def read(self, digest: Digest, hold: bool) -> None:
        found: list[StoredBlob | None] = []
        harm = self.harmed.get(digest)
        if not self.act(lambda: found.append(self.store.open_blob(digest))):
            return
        (blob,) = found
        assert (blob is None) == (digest not in self.stored)
        if blob is None:
            return
        assert harm in {None, "unseen"}
        assert harm or os.pread(blob.fd, blob.size, 0) == WORLD[digest]
        self.used[digest] = self.now
        if hold:
            self.readers.append((digest, blob))
        else:
            blob.close()

    @precondition(lambda self: self.readers)
    @rule()
    def read_to_the_end(self) -> None:
        digest, blob = self.readers.pop()
        assert digest in self.harmed or os.pread(blob.fd, blob.size, 0) == WORLD[digest] or digest not in self.stored
        blob.close()

    @rule(digest=blobs)
    def remove(self, digest: Digest) -> None:
        self.act(lambda: self.store.remove(digest), loses=frozenset({digest}))

    @rule(digest=blobs)
    def pin(self, digest: Digest) -> None:
        pins = {**self.pins, digest: ("a name",)}
        ended = self.act(lambda: self.store.pin(digest, "a name"))
        found = dict(self.store.pins())
        assert found == pins if ended else found in (pins, self.pins)
        self.pins = found

    @rule(digest=blobs)
    def unpin(self, digest: Digest) -> None:
        pins = {each: names for each, names in self.pins.items() if each != digest}
        ended = self.act(lambda: self.store.unpin(digest))
        found = dict(self.store.pins())
        assert found == pins if ended else found in (pins, self.pins)
        self.pins = found

    @rule(size=st.integers(0, 220 * KIB))
    def make_room(self, size: int) -> None:
        found: list[bool] = []
        before, used = set(self.stored), self.store._stockroom.held()[0]
        if not self.act(lambda: found.append(self.store.make_room(size)), evicts=True):
            return
        if found == [False] and self.store.fits(size):
            stock = self.store.stock()
            assert stock is not None
            assert not list(victims(stock, self.now)), "as long as something may go, it goes"
        if used + size <= 200 * KIB:
            assert self.stored == before, "nothing goes where there is room"
        if found == [True]:
            assert sum(len(WORLD[digest]) for digest in self.stored) + size <= 200 * KIB

    @rule(dry_run=st.booleans())
    def sweep(self, dry_run: bool) -> None:
        self.act(lambda: self.store.sweep(dry_run=dry_run), evicts=not dry_run)

    @precondition(lambda self: self.stored)
    @rule(data=st.data(), kind=st.sampled_from(["changed", "cut", "removed", "unseen"]))
    def harm(self, data: st.DataObject, kind: str) -> None:
        digest = data.draw(st.sampled_from(sorted(self.stored)))
        path = self.store.path(digest)
        if not path.exists():
            return
        before = path.stat()
        match kind:
            case "removed":
                path.unlink()
            case "cut":
                os.truncate(path, 3)
            case _:
                with path.open("r+b") as file:
                    file.write(b"evil")
                os.utime(path, ns=(0, before.st_mtime_ns if kind == "unseen" else 7))
        if self.harmed.get(digest) in {None, "unseen"}:
            self.harmed[digest] = kind

    @rule()
    def verify(self) -> None:
        wrong: list[Digest] = []
        harmed = set(self.harmed)

        def verify_it() -> None:
            wrong.extend(digest for digest, right in self.store.verify() if not right)

        if self.act(verify_it):
            assert set(wrong) == harmed
            assert not self.harmed

    @rule(how=st.sampled_from(["cut", "garbage", "gone"]))
    def damage_the_index(self, how: str) -> None:
        self.fuse = None
        self.act(lambda: self.lose_the_index(how))

    def lose_the_index(self, how: str) -> None:
        for _, reader in self.readers:
            reader.close()
        self.readers.clear()
        for partial in self.partials.values():
            partial.close()
        self.partials.clear()
        self.store.close()
        file = self.root / "index.sqlite"
        match how:
            case "cut":
                os.truncate(file, 5000)
            case "garbage":
                file.write_bytes(random.Random(1).randbytes(9000))
            case _:
                file.unlink()
        self.used.clear()
        self.start_again()

    # --- what always holds ----------------------------------------------------------------------------------------

    @invariant()
    def no_wrong_blob_stands_under_a_right_name(self) -> None:
        for path in (self.root / "blobs" / "sha256").glob("*"):
            digest = Digest(f"sha256:{path.name}")
            assert digest in self.harmed or path.read_bytes() == WORLD[digest]

    @invariant()
    def the_books_are_right(self) -> None:
        for digest, size in self.store.digests():
            assert size == len(WORLD[digest])
        assert self.store._inventory._bytes == sum(size for _, size in self.store.digests())
        assert set(self.store._inventory._reading) <= {digest for digest, _ in self.readers}

    def teardown(self) -> None:
        for partial in self.partials.values():
            partial.close()
        for _, reader in self.readers:
            reader.close()
        self.store.close()
        self.folder.cleanup()


TestStoreLife = StoreLife.TestCase
TestStoreLife.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
