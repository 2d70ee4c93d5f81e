"""An origin of the tests' own: slow, lying or breaking off as it is told, which no real registry does on demand."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field

from aiohttp import web

from bench.daemons import free_ports
from bench.images import CONFIG_TYPE, LAYER_TYPE
from shoal.descriptor import OCI_MANIFEST
from shoal.digest import Digest
from shoal.ranges import parse_range

REPOSITORY = "library/made"
_CHUNK = 64 << 10


@dataclass
class ScriptedOrigin:
    """Serves blobs from memory. `rate` limits each response (bytes/s, 0: not); `truncate` cuts blobs at that byte."""

    rate: float = 0.0
    truncate: int = 0
    corrupt: set[str] = field(default_factory=set)
    """Blobs that are served with wrong bytes."""
    contents: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    """By method and last part of the path."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of bodies by digest."""

    def push(self, *layers: bytes) -> str:
        """Make an image of these layers, tagged `latest`; returns its manifest's digest."""
        entries = [{"mediaType": LAYER_TYPE, "digest": self.put(layer), "size": len(layer)} for layer in layers]
        config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}})
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": CONFIG_TYPE, "digest": self.put(config.encode()), "size": len(config)},
            "layers": entries,
        }
        digest = self.put(json.dumps(manifest).encode())
        self.tags["latest"] = digest
        return digest

    def put(self, content: bytes) -> str:
        digest = Digest.of(content)
        self.contents[digest] = content
        return digest

    def start(self, stack: ExitStack) -> str:
        """Serve from a thread until `stack` ends; returns the address."""
        (port,) = free_ports(1)
        started, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

        async def serve() -> None:
            app = web.Application()
            app.router.add_get(f"/v2/{REPOSITORY}/{{kind:manifests|blobs}}/{{reference}}", self._answer)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            started.set()
            await stop.wait()
            await runner.cleanup()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
        thread.start()

        def end() -> None:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            loop.close()

        stack.callback(end)
        started.wait()
        return f"http://127.0.0.1:{port}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        reference = request.match_info["reference"]
        digest = self.tags.get(reference, reference)
        content = self.contents.get(digest)
        if content is None:
            raise web.HTTPNotFound
        self.requests[f"{request.method} {reference}"] += 1
        manifest = request.match_info["kind"] == "manifests"
        part = parse_range(request.headers.get("Range"), len(content))
        start, end = (part.start, part.end) if part is not None else (0, len(content))
        headers = {
            "Content-Type": OCI_MANIFEST if manifest else "application/octet-stream",
            "Docker-Content-Digest": digest,
            "Content-Length": str(end - start),
        }
        if part is not None:
            headers["Content-Range"] = part.content_range(len(content))
        response = web.StreamResponse(status=200 if part is None else 206, headers=headers)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        if digest in self.corrupt:
            content = bytes(byte ^ 0xFF for byte in content)
        stop = min(end, self.truncate) if self.truncate and not manifest else end
        try:
            for offset in range(start, stop, _CHUNK):
                chunk = content[offset : min(offset + _CHUNK, stop)]
                await response.write(chunk)
                self.sent[digest] += len(chunk)
                if self.rate:
                    await asyncio.sleep(len(chunk) / self.rate)
        except ConnectionError:
            return response
        if stop < end and request.transport is not None:
            request.transport.close()
        return response
