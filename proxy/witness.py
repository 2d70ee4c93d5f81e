"""This node's word where another node's is to be confirmed, and what became of others' words that it was given."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol, Self

import structlog

from peer.origin import OriginError
from proxy.tags import Resolver
from shoal.descriptor import BlobKind
from shoal.digest import Digest
from shoal.reference import InvalidReference, Location, Tag, parse_tag_or_digest
from supernode.protocol import Confirm

log = structlog.get_logger()

_MOST = 8
"""Questions to origins at a time. Beyond them the supernode is told that this node cannot ask."""
_SETTLE_SECONDS = 3.0
"""Between two times that the cluster is asked again for what one node alone has said."""


class Tags(Protocol):
    """What is known of references (`proxy.tags.TagResolver` implements it)."""

    async def confirm(self, location: Location, reference: Tag | Digest, identity: str) -> None:
        """Publish what the origin says; raises `OriginError` and `TimeoutError` when that has been published, too."""

    async def settle(self) -> None:
        """Ask the cluster again for what one node alone has said."""


class Witness:
    """Asks origins for the cluster's sake, as an async context manager; nobody waits for what it does."""

    def __init__(self, tags: Tags, resolver: Resolver) -> None:
        self._tags = tags
        self._resolver = resolver
        self._asking: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._settling = asyncio.create_task(self._settle())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = [self._settling, *self._asking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def confirm(self, message: Confirm) -> None:
        """The supernode wants to hear what the origin says to this node."""
        asking = asyncio.create_task(self._confirm(message))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)

    async def _confirm(self, message: Confirm) -> None:
        try:
            location = Location.parse(message.registry, message.repository)
            reference = parse_tag_or_digest(message.reference)
        except InvalidReference as error:
            log.warning("supernode.invalid_question", error=str(error))
            return
        try:
            if len(self._asking) <= _MOST and message.kind == BlobKind.MANIFEST:
                await self._tags.confirm(location, reference, message.identity)
                return
        except (OriginError, TimeoutError) as error:
            log.info("tag.not_confirmed", location=str(location), reference=reference, error=str(error))
            return
        except Exception:  # a fault of ours: the supernode asks another node when this one has said nothing
            log.exception("tag.confirming_failed", location=str(location), reference=reference)
        self._resolver.publish(location, reference, message.kind, message.identity, None, missing=False)

    async def _settle(self) -> None:
        while True:
            await asyncio.sleep(_SETTLE_SECONDS)
            try:
                await self._tags.settle()
            except Exception:  # a fault of ours in one round
                log.exception("tag.settling_failed")
