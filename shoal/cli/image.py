"""A client of a registry or a mirror: reads one whole image and checks every digest."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, NoReturn, Protocol

import aiohttp
import msgspec
import tenacity

from shoal.descriptor import MANIFEST_TYPES, MAX_MANIFEST_SIZE, Descriptor, InvalidManifest, Manifest, Platform
from shoal.digest import Digest, InvalidDigest
from shoal.platforms import manifest_for, offered_by
from shoal.reference import Reference

if TYPE_CHECKING:
    from hashlib import _Hash

_BLOBS_AT_ONCE = 3
"""As docker and containerd have it."""
_MAX_INDEX_DEPTH = 3
_TRIES = 4
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)
_MAX_ERROR_SIZE = 64 << 10


class PullFailed(Exception):
    """An image that could not be read, or is not what its digests say."""


class _TryAgain(Exception):
    """Something that may go well the next time."""


class _Error(msgspec.Struct):
    message: str = ""


class _Errors(msgspec.Struct):
    errors: list[_Error] = []


class Progress(Protocol):
    """Who is told how a pull goes on."""

    def found(self, blobs: list[Descriptor]) -> None:
        """The image consists of these blobs."""

    def moved(self, blob: Descriptor, read: int) -> None:
        """`read` bytes of a blob are here."""


class Silence:
    """Tells nobody."""

    def found(self, blobs: list[Descriptor]) -> None: ...

    def moved(self, blob: Descriptor, read: int) -> None: ...


@dataclass(frozen=True, slots=True)
class PulledImage:
    """What was read: the digest of what the reference stood for, and all blobs of one platform's image."""

    digest: Digest
    manifest: Digest
    blobs: tuple[Descriptor, ...]

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(blob.size for blob in self.blobs)


async def pull(
    registry_url: str, reference: Reference, platform: Platform, progress: Progress, authorization: str | None = None
) -> PulledImage:
    """Read an image through the mirror at `registry_url` (`http://host:port`); raises `PullFailed`.

    `authorization`: what the mirror is sent in the header of that name, for the registry to judge.
    """
    headers = {"Authorization": authorization} if authorization is not None else {}
    async with aiohttp.ClientSession(timeout=_TIMEOUT, auto_decompress=False, headers=headers) as session:
        return await _Pull(session, registry_url, reference, progress).run(platform)


class _Pull:
    def __init__(
        self, session: aiohttp.ClientSession, registry_url: str, reference: Reference, progress: Progress
    ) -> None:
        self._session = session
        self._base = f"{registry_url}/v2/{reference.repository}"
        self._query = {"ns": reference.registry}
        self._reference = reference
        self._progress = progress

    async def run(self, platform: Platform) -> PulledImage:
        digest, manifest = await self._manifest(self._reference.target)
        chosen = digest
        for _ in range(_MAX_INDEX_DEPTH):
            if not manifest.children:
                break
            chosen, manifest = await self._manifest(choose(manifest, platform).digest)
        blobs = list({blob.digest: blob for blob in manifest.blobs}.values())
        if not blobs:
            raise PullFailed(f"{self._reference} is no image: a manifest of type {manifest.media_type}")
        self._progress.found(blobs)
        slots = asyncio.Semaphore(_BLOBS_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for blob in blobs:
                    group.create_task(self._blob(blob, slots))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return PulledImage(digest, chosen, tuple(blobs))

    async def _manifest(self, target: str) -> tuple[Digest, Manifest]:
        headers = {"Accept": ", ".join(MANIFEST_TYPES), "Accept-Encoding": "identity"}
        async for attempt in _persistently():
            with attempt:
                async with self._get(f"manifests/{target}", headers) as answer:
                    await _expect(answer, HTTPStatus.OK)
                    content = await _read(answer, MAX_MANIFEST_SIZE + 1)
                    announced = answer.headers.get("Docker-Content-Digest", "")
        try:
            digest = Digest(target if ":" in target else announced or Digest.of(content))
            _check(digest, digest.hasher(), content)
            return digest, Manifest.parse(content)
        except (InvalidDigest, InvalidManifest) as error:
            raise PullFailed(f"{target}: {error}") from None

    async def _blob(self, blob: Descriptor, slots: asyncio.Semaphore) -> None:
        async with slots:
            hasher, read = blob.digest.hasher(), 0
            async for attempt in _persistently():
                with attempt:
                    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={read}-"} if read else {})
                    async with self._get(f"blobs/{blob.digest}", headers) as answer:
                        await _expect(answer, HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)
                        if answer.status == HTTPStatus.OK:
                            hasher, read = blob.digest.hasher(), 0
                        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {read}-"):
                            raise PullFailed(f"{blob.digest}: a part came that was not asked for")
                        async for chunk in answer.content.iter_any():
                            read += len(chunk)
                            hasher.update(chunk)
                            self._progress.moved(blob, read)
                            if read > blob.size:
                                raise PullFailed(f"{blob.digest}: more than its {blob.size} bytes came")
            _check(blob.digest, hasher)

    def _get(self, path: str, headers: Mapping[str, str]) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._session.get(f"{self._base}/{path}", params=self._query, headers=headers)


def _persistently() -> tenacity.AsyncRetrying:
    """Tries again what may go well the next time; the last failure is a `PullFailed`."""
    return tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(_TRIES),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=2),
        retry=tenacity.retry_if_exception_type((_TryAgain, aiohttp.ClientError, TimeoutError)),
        retry_error_callback=_give_up,
    )


def _give_up(state: tenacity.RetryCallState) -> NoReturn:
    error = state.outcome.exception() if state.outcome is not None else None
    raise PullFailed(str(error) or type(error).__name__) from error


async def _expect(answer: aiohttp.ClientResponse, *statuses: HTTPStatus) -> None:
    if answer.status in statuses:
        return
    content = await _read(answer, _MAX_ERROR_SIZE)
    try:
        reason = "; ".join(error.message for error in msgspec.json.decode(content, type=_Errors).errors)
    except (msgspec.DecodeError, UnicodeDecodeError):
        reason = answer.reason or ""
    kind = _TryAgain if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR else PullFailed
    raise kind(f"{answer.url.path}: status {answer.status}: {reason}")


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    content = b""
    while chunk := await answer.content.read(limit - len(content)):
        content += chunk
    return content


def _check(digest: Digest, hasher: _Hash, content: bytes = b"") -> None:
    hasher.update(content)
    if not digest.matches(hasher):
        raise PullFailed(f"what came is not {digest}")


def choose(index: Manifest, platform: Platform) -> Descriptor:
    """The manifest for a platform; raises `PullFailed`. A platform without a variant takes any."""
    child = manifest_for(index, platform)
    if child is None:
        raise PullFailed(f"no image for {platform} (there is: {offered_by(index)})")
    return child
