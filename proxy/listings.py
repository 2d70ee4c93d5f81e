"""Lists of tags and of referrers, passed through from the origin."""

from __future__ import annotations

import re
from typing import Protocol

from aiohttp import hdrs, web
from yarl import URL

from proxy.naming import ReferrersTarget, TagsTarget
from proxy.responses import API_HEADERS, Call
from proxy.upstream import Listing
from shoal.reference import Location

_PASSED_PARAMETERS = ("n", "last", "artifactType")
_LINK = re.compile(r'\s*<([^<>]*)>\s*;\s*rel="?next"?\s*')


class ListingOrigin(Protocol):
    """Where lists come from (`proxy.upstream.UpstreamClient` implements it)."""

    async def listing(self, location: Location, endpoint: str, query: dict[str, str]) -> Listing:
        """A list as it came; raises `OriginError`."""


class ListingFrontend:
    """Answers `/v2/NAME/tags/list` and `/v2/NAME/referrers/DIGEST`."""

    def __init__(self, origin: ListingOrigin) -> None:
        self._origin = origin

    async def answer(self, call: Call, target: TagsTarget | ReferrersTarget) -> None:
        """GET and HEAD; raises `OriginError`."""
        request = call.request
        endpoint = f"referrers/{target.digest}" if isinstance(target, ReferrersTarget) else "tags/list"
        query = {name: request.query[name] for name in _PASSED_PARAMETERS if name in request.query}
        listing = await self._origin.listing(target.location, endpoint, query)
        headers = {hdrs.CONTENT_TYPE: "application/json", **API_HEADERS, **listing.headers}
        link = next_page(headers.pop(hdrs.LINK, ""), request.rel_url)
        if link is not None:
            headers[hdrs.LINK] = link
        await call.send(web.Response(body=listing.body, headers=headers))


def next_page(link: str, asked: URL) -> str | None:
    """The origin's link to the next page as a link to this proxy: the path and the `ns=` that the client used."""
    match = _LINK.fullmatch(link)
    if match is None:
        return None
    try:
        query = URL(match[1]).query
    except ValueError:
        return None
    page = {name: query[name] for name in _PASSED_PARAMETERS if name in query}
    if "ns" in asked.query:
        page["ns"] = asked.query["ns"]
    return f'<{asked.with_query(page)}>; rel="next"'
