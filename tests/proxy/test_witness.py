from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from peer.origin import OriginUnavailable
from proxy.witness import Witness
from shoal.digest import Digest
from shoal.reference import Location, Tag
from supernode.protocol import Confirm

if TYPE_CHECKING:
    from tests.proxy.conftest import MemoryCluster

DIGEST = Digest.of(b"manifest")


class Tags:
    """What a witness asks for, and how that ends."""

    def __init__(self) -> None:
        self.confirmed: list[tuple[str, str, str]] = []
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def confirm(self, location: Location, reference: Tag | Digest, identity: str) -> None:
        self.confirmed.append((f"{location.registry}/{location.repository}", str(reference), identity))
        await self.answers.wait()
        if self.error is not None:
            raise self.error

    async def settle(self) -> None:
        pass


def question(reference: str = "latest", kind: str = "manifest", repository: str = "busybox") -> Confirm:
    return Confirm("docker.io", repository, reference, kind, "anonymous")


@pytest.mark.parametrize("reference", ["latest", DIGEST])
async def test_the_origin_is_asked_for_tags_and_digests(memory_cluster: MemoryCluster, reference: str) -> None:
    tags = Tags()
    async with Witness(tags, memory_cluster) as witness:
        witness.confirm(question(reference))
        await asyncio.sleep(0)
        assert tags.confirmed == [("docker.io/library/busybox", reference, "anonymous")]
    assert memory_cluster.published == []


async def test_who_cannot_ask_says_so_at_once(memory_cluster: MemoryCluster) -> None:
    tags = Tags()
    tags.answers.clear()
    async with Witness(tags, memory_cluster) as witness:
        for _ in range(8):
            witness.confirm(question())
        await asyncio.sleep(0)
        assert memory_cluster.published == []
        witness.confirm(question())
        witness.confirm(question(kind="blob"))
        await asyncio.sleep(0)
        assert memory_cluster.published == [None, None]
    assert len(tags.confirmed) == 8


@pytest.mark.parametrize("error", [OriginUnavailable("down"), TimeoutError(), ValueError("a fault of ours")])
async def test_an_error_ends_one_question_and_no_other(memory_cluster: MemoryCluster, error: Exception) -> None:
    tags = Tags()
    tags.error = error
    async with Witness(tags, memory_cluster) as witness:
        for asked in (question(), question(repository="../x"), question(":"), question()):
            witness.confirm(asked)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(tags.confirmed) == 2
