"""One upstream registry: its mirrors and its own address, which of them are well, and its rate limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
import msgspec
import structlog
from yarl import URL

from peer.account import Cause, waiting_for
from peer.origin import OriginDenied, OriginError, OriginNotFound, OriginUnavailable
from proxy.egress import Egress
from proxy.endpoint import Endpoint, Question, Sessions, translated
from proxy.identity import ANONYMOUS, Identity
from proxy.limits import LimitBoard, parse_rate_limit, quiet_seconds
from proxy.retry import Limited, Transient, failure, read_whole
from proxy.settings import EndpointSettings, UpstreamSettings
from shoal.reference import Registry, parse_registry

log = structlog.get_logger()

REST_SECONDS = 60.0
"""How long a mirror that failed is asked only where the registry itself gives no answer."""

_MIRROR_SECONDS = 1.5
"""How long a mirror has for the headers of its answer; behind it there is somebody else to ask."""

_MAX_ERROR_SIZE = 64 << 10
_ERROR_SECONDS = 1.0
"""How long the body of an error is waited for; it only tells the code."""

_CODES = {"NAME_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "UNSUPPORTED", "NAME_INVALID"}


class _Entry(msgspec.Struct):
    code: str = ""


class _Errors(msgspec.Struct):
    errors: list[_Entry] = []


@dataclass(slots=True)
class _Place:
    """One of a registry's addresses, and until when it is not asked first."""

    endpoint: Endpoint
    rests_until: float = 0.0


class UpstreamRegistry:
    """A registry under the name that its images have."""

    def __init__(
        self,
        name: Registry,
        settings: UpstreamSettings,
        egress: Egress,
        sessions: Callable[[], Sessions],
        clock: Callable[[], float],
        board: LimitBoard,
        *,
        public_only: bool,
    ) -> None:
        """`sessions` gives the HTTP clients. `public_only`: it is asked by https and at public addresses alone.

        Raises `CredentialsUnreadable`.
        """
        self.name = name
        self.settings = settings
        self.quiet_until = 0.0
        """When the registry may be asked again after a 429, its own or one that the cluster told of."""
        self._clock = clock
        self._board = board
        self._mirrors = [
            _Place(Endpoint(_own_name(mirror), mirror, egress, sessions, clock, public_only=False))
            for mirror in settings.mirrors
        ]
        self._own = Endpoint(name, settings, egress, sessions, clock, public_only=public_only)

    async def close(self) -> None:
        """Give up tokens that are being fetched."""
        for endpoint in [self._own, *(place.endpoint for place in self._mirrors)]:
            await endpoint.close()

    async def node(self) -> Identity | None:
        """This node's own credentials, or None where it has none."""
        with waiting_for(Cause.TOKEN):
            return await self._own.credentials.get()

    async def public(self) -> Identity:
        """As whom clients that say nothing are served: nobody, or this node where the configuration says so."""
        node = await self.node() if self.settings.share_credentials else None
        return node if node is not None else ANONYMOUS

    @contextlib.asynccontextmanager
    async def opened(
        self, question: Question, identity: Identity, *, patience: float | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """`open`, and close in the end; what breaks meanwhile is an `OriginError`."""
        response = await self.open(question, identity, patience=patience)
        try:
            with translated(self.name):
                yield response
        finally:
            response.close()

    async def open(
        self, question: Question, identity: Identity, *, is_judged: bool = False, patience: float | None = None
    ) -> aiohttp.ClientResponse:
        """A response of status 200 or 206, or 416 to a range; raises `OriginError`.

        Mirrors are asked for what everybody may read; a client's credentials are for the registry itself. `is_judged`:
        who may have the answer is known already. `patience`: seconds that the registry itself has for its headers;
        raises `TimeoutError` behind them.
        """
        try:
            response = await self._open(question, identity, is_judged, patience)
        except (OriginError, TimeoutError) as error:
            self._board.asked(self.name, error)
            raise
        self._board.asked(self.name, None)
        return response

    async def _open(
        self, question: Question, identity: Identity, is_judged: bool, patience: float | None
    ) -> aiohttp.ClientResponse:
        places = self._mirrors if question.signed and not identity.is_client else []
        resting = [place for place in places if place.rests_until > self._clock()]
        for place in places:
            if place not in resting and (response := await self._try(place, question, is_judged)) is not None:
                return response
        try:
            async with asyncio.timeout(patience):
                return await self._open_own(question, identity)
        except (OriginUnavailable, TimeoutError):
            for place in resting:
                if (response := await self._try(place, question, is_judged)) is not None:
                    return response
            raise

    async def _try(self, place: _Place, question: Question, is_judged: bool) -> aiohttp.ClientResponse | None:
        """A mirror's answer; None where it has none, or would give it to this node and not to everybody."""
        endpoint = place.endpoint
        try:
            async with asyncio.timeout(_MIRROR_SECONDS):
                identity = await endpoint.credentials.get()
                if identity is not None and not is_judged and not self.settings.share_credentials:
                    return None
                response = await endpoint.ask(question, ANONYMOUS if identity is None else identity)
        except (OriginError, TimeoutError) as error:
            self._rest(place, str(error) or f"no answer within {_MIRROR_SECONDS:g} s")
            return None
        if _is_success(response, question):
            place.rests_until = 0.0
            return response
        response.close()
        if response.status == 429 or response.status >= 500:
            self._rest(place, f"status {response.status}")
        return None

    def _rest(self, place: _Place, reason: str) -> None:
        place.rests_until = self._clock() + REST_SECONDS
        log.warning("mirror.rests", registry=self.name, mirror=place.endpoint.host, reason=reason)

    async def _open_own(self, question: Question, identity: Identity) -> aiohttp.ClientResponse:
        wait = self.quiet_until - self._clock()
        if wait > 0:
            raise Limited(f"{self.name} is at its rate limit for {wait:.0f} s more", wait)
        response = await self._own.ask(question, identity)
        limit = parse_rate_limit(response.headers)
        if limit is not None:
            self._board.limit(self.name, limit)
        if _is_success(response, question):
            return response
        try:
            raise await self._refusal(response, question, identity)
        finally:
            response.close()

    async def _refusal(
        self, response: aiohttp.ClientResponse, question: Question, identity: Identity
    ) -> OriginUnavailable | OriginDenied | OriginNotFound:
        """The error for a status that is no success."""
        status, host = response.status, response.url.host
        behind = "" if self._own.is_own(response.url) else f" (behind a redirect to {host})"
        path = "/".join(filter(None, (question.name, question.path)))
        message = f"{self.name}{behind} answered {status} to {question.method} /v2/{path}"
        if status in {404, 410}:
            return OriginNotFound(message, await _error_code(response))
        if status in {401, 403}:
            # nobody with a token for nobody may be refused by 403; to HEAD it is no refusal before GET has met it too
            is_asked = status == 401 or (identity is ANONYMOUS and question.method == "GET")
            challenges = self._own.challenges(question.name) if is_asked else ()
            return OriginDenied(message, challenges if not behind else (), is_forbidden=status == 403)
        error = failure(response, message)
        if isinstance(error, Limited) and not behind:
            seconds = quiet_seconds(error.after)
            self.quiet_until = self._clock() + seconds
            log.warning("origin.limited", registry=self.name, seconds=round(seconds, 1))
            self._board.quiet(self.name, seconds)
        return error


def _own_name(mirror: EndpointSettings) -> Registry:
    """The name of a mirror in a `docker_config`: the registry's own login is no business of the mirror."""
    return parse_registry(URL(mirror.url).host_port_subcomponent or "")


def _is_success(response: aiohttp.ClientResponse, question: Question) -> bool:
    return response.status in {200, 206} or (response.status == 416 and "Range" in question.headers)


async def _error_code(response: aiohttp.ClientResponse) -> str:
    """The API's code in an error's body, where there is one."""
    try:
        with translated("the origin"):
            async with asyncio.timeout(_ERROR_SECONDS):
                content = await read_whole(response, _MAX_ERROR_SIZE)
        codes = [entry.code for entry in msgspec.json.decode(content, type=_Errors).errors]
    except (OriginUnavailable, Transient, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return next((code for code in codes if code in _CODES), "")
