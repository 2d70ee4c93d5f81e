"""Lists of tags, of referrers and of repositories, passed through from the origin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from urllib.parse import parse_qsl, urlencode

from aiohttp import hdrs, web
from yarl import URL

from peer.origin import OriginNotFound
from proxy.errors import InvalidQuery, UnknownEndpoint
from proxy.identity import Identity
from proxy.links import parse_links
from proxy.naming import CatalogTarget, ReferrersTarget, TagsTarget
from proxy.responses import API_HEADERS, Call
from proxy.upstream import Listing
from shoal.reference import Location, Registry

_MAX_QUERY = 4096
_NAMESPACE = "ns"


class ListingOrigin(Protocol):
    """Where lists come from (`proxy.upstream.UpstreamClient` implements it)."""

    async def listing(self, location: Location, endpoint: str, query: str, identity: Identity) -> Listing:
        """A list of a repository as it came; raises `OriginError`."""

    async def catalog(self, registry: Registry, query: str, identity: Identity) -> Listing:
        """A registry's repositories; raises `OriginError`."""

    def has_catalog(self, registry: Registry) -> bool:
        """Whether the configuration lets clients see a registry's repositories."""


class ListingFrontend:
    """Answers `/v2/NAME/tags/list`, `/v2/NAME/referrers/DIGEST` and `/v2/_catalog`."""

    def __init__(self, origin: ListingOrigin) -> None:
        self._origin = origin

    async def answer(
        self, call: Call, target: TagsTarget | ReferrersTarget | CatalogTarget, identity: Identity
    ) -> None:
        """GET and HEAD; raises `RequestError` or `OriginError`."""
        request = call.request
        listing = await self._listing(target, _query(request), identity)
        headers = {hdrs.CONTENT_TYPE: "application/json", **API_HEADERS, **listing.headers}
        link = next_page(listing.links, request.rel_url)
        if link is not None:
            headers[hdrs.LINK] = link
        headers[hdrs.CONTENT_LENGTH] = str(len(listing.body))
        await call.send(web.StreamResponse(headers=headers), content=listing.body)

    async def _listing(
        self, target: TagsTarget | ReferrersTarget | CatalogTarget, query: str, identity: Identity
    ) -> Listing:
        match target:
            case TagsTarget():
                return await self._origin.listing(target.location, "tags/list", query, identity)
            case CatalogTarget():
                if not self._origin.has_catalog(target.registry):
                    raise UnknownEndpoint(f"the configuration does not let `_catalog` of {target.registry} be seen")
                return await self._origin.catalog(target.registry, query, identity)
            case ReferrersTarget():
                try:
                    return await self._origin.listing(target.location, f"referrers/{target.digest}", query, identity)
                except OriginNotFound as error:
                    # clients go on to the tag that stands in for this list, unless they are told that all is missing
                    raise OriginNotFound(str(error), error.code or "UNSUPPORTED") from None


def _query(request: web.Request) -> str:
    """The client's parameters for the origin, as they came but for `ns`; raises `InvalidQuery`."""
    text = request.rel_url.raw_query_string
    if len(text) > _MAX_QUERY:
        raise InvalidQuery("a query that is too long")
    pairs = [(name, value) for name, value in parse_qsl(text, keep_blank_values=True) if name != _NAMESPACE]
    for name, value in pairs:
        if name == "n" and not (value.isascii() and value.isdigit() and len(value) < 10):
            raise InvalidQuery(f"n={value[:20]} is no number of entries")
        if not value.isprintable() or not name.isprintable():
            raise InvalidQuery("a query with characters that cannot be")
    return urlencode(pairs)


def next_page(links: Sequence[str], asked: URL) -> str | None:
    """The origin's link to the next page as a link to this proxy: the path and the `ns=` that the client used."""
    for link in parse_links(links):
        if "next" not in link.relations or not link.target.isascii():  # other characters are in no address
            continue
        query = link.target.partition("#")[0].partition("?")[2]
        page = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name != _NAMESPACE]
        page += [(_NAMESPACE, value) for value in asked.query.getall(_NAMESPACE, [])]
        return f'<{asked.raw_path}?{urlencode(page)}>; rel="next"'
    return None
