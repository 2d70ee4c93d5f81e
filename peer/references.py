"""Which stored manifests name which blobs, and what belongs to one image. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, Self

from shoal.descriptor import Manifest
from shoal.digest import Digest


class Names(NamedTuple):
    """What one manifest needs: the blobs and manifests that it names; `subject`: the manifest that it is about."""

    named: tuple[Digest, ...]
    subject: Digest | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Each blob once, in the manifest's order."""
        named = [child.digest for child, _ in manifest.children] + [blob.digest for blob in manifest.blobs]
        return cls(tuple(dict.fromkeys(named)), manifest.subject)


class Image(NamedTuple):
    """A manifest that no other one keeps, with all that it keeps: what is pinned or evicted together."""

    root: Digest
    manifests: frozenset[Digest]
    """The stored ones, the root included."""
    members: frozenset[Digest]
    """All blobs that it needs, the manifests included, whether they are stored or not."""


class References:
    """What stored manifests name. An index keeps its manifests, a manifest its blobs, a subject what refers to it."""

    def __init__(self, names: Mapping[Digest, Names] | None = None) -> None:
        self._names: dict[Digest, Names] = {}
        self._referrers: dict[Digest, tuple[Digest, ...]] = {}
        for manifest, named in (names or {}).items():
            self.learn(manifest, named)

    def __contains__(self, digest: Digest) -> bool:
        """Whether a stored blob is a manifest."""
        return digest in self._names

    def __len__(self) -> int:
        return len(self._names)

    def copy(self) -> References:
        """The state of this moment; what is learned later does not show in it."""
        twin = References()
        twin._names, twin._referrers = self._names.copy(), self._referrers.copy()
        return twin

    def learn(self, manifest: Digest, names: Names) -> None:
        """A manifest is stored that names these."""
        self.forget(manifest)
        self._names[manifest] = names
        if names.subject is not None:
            self._referrers[names.subject] = (*self._referrers.get(names.subject, ()), manifest)

    def forget(self, digest: Digest) -> None:
        """A blob, which may have been a manifest, is stored no more."""
        names = self._names.pop(digest, None)
        if names is None or names.subject is None:
            return
        left = tuple(each for each in self._referrers[names.subject] if each != digest)
        if left:
            self._referrers[names.subject] = left
        else:
            del self._referrers[names.subject]

    def kept_by(self, roots: Iterable[Digest]) -> set[Digest]:
        """These blobs and all that they need, directly or not."""
        kept: set[Digest] = set()
        ahead = list(roots)
        while ahead:
            digest = ahead.pop()
            if digest not in kept:
                kept.add(digest)
                ahead += self._needs(digest)
        return kept

    def images(self) -> Iterator[Image]:
        """All images; each stored manifest is in one at least."""
        named = {each for manifest in self._names for each in self._needs(manifest) if each != manifest}
        named |= {each for subject in named - self._names.keys() for each in self._referrers.get(subject, ())}
        reached: set[Digest] = set()
        # those that only name each other, as an index that is about one of its own manifests, come last
        for root in sorted(self._names, key=lambda manifest: manifest in named):
            if root in named and root in reached:
                continue
            members = self.kept_by([root])
            reached |= members
            yield Image(root, frozenset(each for each in members if each in self._names), frozenset(members))

    def kept_without(self, members: Collection[Digest]) -> set[Digest]:
        """All blobs that stored manifests besides these need, and those manifests themselves."""
        return self.kept_by(self._names.keys() - set(members))

    def needed(self) -> set[Digest]:
        """All blobs that stored manifests need, and the manifests themselves."""
        return self.kept_by(self._names)

    def _needs(self, digest: Digest) -> Collection[Digest]:
        names = self._names.get(digest)
        return (*(names.named if names is not None else ()), *self._referrers.get(digest, ()))
