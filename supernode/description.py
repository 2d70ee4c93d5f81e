"""The description of the operations API at the port that it describes: for programs, and as a page."""

from __future__ import annotations

import html
from importlib import resources

from aiohttp import web

_FILE = "api.yaml"
DESCRIPTION_PATH, PAGE_PATH = "/v1/openapi.yaml", "/v1/docs"
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Shoal's API</title>
<style>:root {{ color-scheme: light dark }} body {{ font: 15px/1.5 monospace; margin: 2rem auto; max-width: 75rem }}
pre {{ white-space: pre-wrap }}</style>
<p><a href="{path}">OpenAPI 3.1</a>, for programs that read it.
<pre>{text}</pre>
</html>
"""


def description_routes() -> list[web.RouteDef]:
    """Nothing of it is secret: everybody may read it."""
    text = resources.files("supernode").joinpath(_FILE).read_text(encoding="utf-8")
    page = _PAGE.format(path=DESCRIPTION_PATH, text=html.escape(text))

    async def description(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="application/yaml")

    async def as_page(_: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html")

    return [web.get(DESCRIPTION_PATH, description), web.get(PAGE_PATH, as_page)]
