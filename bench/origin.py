"""An origin registry on loopback that counts what leaves it: distribution's, else a small one of our own."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from aiohttp import web

from bench.daemons import REGISTRY, Daemon, free_ports
from shoal.descriptor import OCI_MANIFEST

PROGRAM = "docker-registry"


class Origin(Protocol):
    """A running registry."""

    name: str
    """What images' references call it."""
    url: str

    def traffic(self) -> tuple[int, int]:
        """Requests answered, and bytes of bodies sent, since the start."""


def open_origin(stack: ExitStack, folder: Path) -> Origin:
    """Start a registry over the storage in `folder`/registry; it ends with `stack`."""
    (port,) = free_ports(1)
    if shutil.which(PROGRAM):
        return Distribution(stack, folder, port)
    return SmallRegistry(stack, folder / "registry", port)


class Distribution:
    """docker-registry, which logs each response."""

    name = REGISTRY

    def __init__(self, stack: ExitStack, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "registry.log"
        config = folder / "registry.json"
        config.write_text(json.dumps(distribution_config(folder / "registry", f"127.0.0.1:{port}")))
        self.daemon = Daemon([PROGRAM, "serve", str(config)], self._log)
        stack.enter_context(self.daemon)
        self.daemon.wait_for(port)

    def traffic(self) -> tuple[int, int]:
        """See `Origin`."""
        return logged_traffic(self._log)


def distribution_config(root: Path, address: str, upstream: str | None = None) -> dict[str, object]:
    """Configuration of distribution's registry; with `upstream` it is a pull-through cache of that."""
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root), "maxthreads": 100}},
        "http": {"addr": address},
    }
    return config | ({"proxy": {"remoteurl": upstream}} if upstream else {})


def logged_traffic(path: Path) -> tuple[int, int]:
    """Requests and bytes that a log of distribution's registry tells of."""
    requests = sent = 0
    with path.open("rb") as log:
        for line in log:
            if b"response completed" in line:
                requests += 1
                sent += json.loads(line).get("http.response.written", 0)
    return requests, sent


class SmallRegistry:
    """Serves the images of `bench.images` from a thread of this process."""

    name = REGISTRY

    def __init__(self, stack: ExitStack, root: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._base = root / "docker/registry/v2"
        self._requests = self._sent = 0
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(port),))
        self._thread.start()
        stack.callback(self._end)
        self._started.wait()

    def traffic(self) -> tuple[int, int]:
        """See `Origin`."""
        return self._requests, self._sent

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self, port: int) -> None:
        app = web.Application()
        app.router.add_get("/v2/{name:.+}/manifests/{reference}", self._manifest)
        app.router.add_get("/v2/{name:.+}/blobs/{digest}", self._blob)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        reference = request.match_info["reference"]
        if not reference.startswith("sha256:"):
            tag = self._base / "repositories" / request.match_info["name"] / "_manifests/tags" / reference
            try:
                reference = (tag / "current/link").read_text()
            except OSError:
                raise web.HTTPNotFound from None
        headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": reference}
        return self._file(request, reference, headers)

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        return self._file(request, request.match_info["digest"], {"Content-Type": "application/octet-stream"})

    def _file(self, request: web.Request, digest: str, headers: dict[str, str]) -> web.StreamResponse:
        name = digest.removeprefix("sha256:")
        path = self._base / "blobs/sha256" / name[:2] / name / "data"
        self._requests += 1
        if not name.isalnum() or not path.is_file():
            raise web.HTTPNotFound
        size = path.stat().st_size
        part = request.http_range
        start, stop = part.start or 0, part.stop or size
        self._sent += 0 if request.method == "HEAD" else min(stop, size) - start
        return web.FileResponse(path, headers=headers)
