"""The files of the page, which are the same for everybody: no file holds anything that has to be kept secret."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath
from types import MappingProxyType

from aiohttp import hdrs, web

_INDEX = "index.html"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = MappingProxyType(
    {
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        # asked for anew each time, so that a page never runs with files of another version
        hdrs.CACHE_CONTROL: "no-cache",
    }
)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    type: str
    tag: str


class Files:
    """Reads all files at once; `routes` serve them from memory."""

    def __init__(self) -> None:
        folder = resources.files("supernode.dashboard") / "static"
        self._files = {file.name: _read(file.name, file.read_bytes()) for file in folder.iterdir()}

    def routes(self) -> list[web.RouteDef]:
        """The page at `/`, and what it is made of."""
        return [web.get("/", self._index), web.get("/static/{name}", self._file)]

    async def _index(self, request: web.Request) -> web.Response:
        return _answer(request, self._files[_INDEX])

    async def _file(self, request: web.Request) -> web.Response:
        file = self._files.get(request.match_info["name"])
        if file is None:
            return web.json_response({"error": "there is no such file"}, status=404, headers=_HEADERS)
        return _answer(request, file)


def _read(name: str, content: bytes) -> _File:
    return _File(content, _TYPES[PurePath(name).suffix], hashlib.sha256(content).hexdigest()[:32])


def _answer(request: web.Request, file: _File) -> web.Response:
    response = web.Response(headers=_HEADERS)
    response.etag = file.tag
    known = request.if_none_match or ()
    if any(each.value in {file.tag, "*"} for each in known):
        response.set_status(304)
        return response
    response.body = file.content
    response.content_type, response.charset = file.type, "utf-8"
    return response
