"""Resident memory of a peer while a client pulls large blobs through it."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click

from bench.congestion import same_congestion_control
from bench.daemons import Daemon, free_ports, start_node, start_supernode
from bench.options import file_system, folder_option, json_option, require_programs, runs_option, working_folder
from bench.processes import IdleMeter, PeakMemory
from bench.result import Check, Result, Series, publish

_GIB = 1 << 30
_SIZES = (1 * _GIB, 4 * _GIB, 10 * _GIB)
_BLOCK_SIZE = 64 << 20
_BAR_MIB, _GROWTH_BAR = 120.0, 1.1
_PATH = "/v2/bench/memory/blobs/"


@click.command()
@json_option
@runs_option
@folder_option
def command(as_json: bool, runs: int, folder: Path | None) -> None:
    """Resident memory of a peer that pulls 1, 4 and 10 GiB from an origin while curl reads along."""
    require_programs("curl")
    peaks: dict[int, list[float]] = {size: [] for size in _SIZES}
    rates: dict[int, list[float]] = {size: [] for size in _SIZES}
    idle = []
    with working_folder(folder, max(_SIZES)) as work, same_congestion_control() as congestion, ExitStack() as stack:
        digests = {size: digest for digest, size in _blobs().items()}
        (port,) = free_ports(1)
        generator = Daemon([sys.executable, "-m", "bench.memory", str(port)], work / "origin.log")
        stack.enter_context(generator).wait_for(port)
        supernode = start_supernode(stack, work)
        for place in range(runs):
            for size in _SIZES:
                with ExitStack() as run, IdleMeter() as meter:
                    node = start_node(run, work, f"node{place}-{size}", f"http://127.0.0.1:{port}", supernode)
                    with PeakMemory(node.daemon) as memory:
                        url = f"http://127.0.0.1:{node.proxy}{_PATH}{digests[size]}"
                        done = subprocess.run(["curl", "-sf", "-o", "/dev/null", url], check=False)
                    if done.returncode:
                        raise click.ClickException(f"curl {url}: exit status {done.returncode}")
                    peaks[size].append(memory.peak / (1 << 20))
                    rates[size].append(size / memory.samples[-1][0] / 1e9)
                idle.append(meter.share)
                shutil.rmtree(node.store)
        where = file_system(work)
    figures = {}
    for size in _SIZES:
        figures[f"peak, {size // _GIB} GiB"] = Series("MiB", peaks[size])
        figures[f"rate, {size // _GIB} GiB"] = Series("GB/s", rates[size])
    largest, smallest = Series("MiB", peaks[max(_SIZES)]), Series("MiB", peaks[min(_SIZES)])
    checks = [
        Check("ratio", max(largest.runs), _BAR_MIB, True, "MiB resident at most, at 10 GiB"),
        Check("ratio_growth", largest.median / smallest.median, _GROWTH_BAR, True, "peak at 10 GiB over that at 1 GiB"),
    ]
    setting = {"sizes": list(_SIZES), "runs": runs, "stores on": where}
    title = "Resident memory while large blobs are pulled"
    publish(Result("memory", title, checks, {"shoal": figures}, idle, congestion, setting), as_json)


# --- the origin, a process of its own: one block of random bytes, over and over ---------------------------------------


def _block() -> bytes:
    return random.Random("bench/memory").randbytes(_BLOCK_SIZE)


def _blobs() -> Mapping[str, int]:
    """Digest and size of each blob; they are each other's beginnings, so that one pass hashes all."""
    block, hasher, found = _block(), hashlib.sha256(), {}
    for count in range(1, max(_SIZES) // _BLOCK_SIZE + 1):
        hasher.update(block)
        if count * _BLOCK_SIZE in _SIZES:
            found[f"sha256:{hasher.hexdigest()}"] = count * _BLOCK_SIZE
    return found


def _serve(port: int) -> None:
    block, blobs = memoryview(_block()), _blobs()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

        def _answer(self, body: bool) -> None:
            size = blobs.get(self.path.removeprefix(_PATH), 0)
            part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start, end = (int(part[1]), int(part[2] or size - 1) + 1) if part else (0, size)
            found = 206 if part else 200
            self.send_response(found if size or self.path == "/v2/" else 404)
            self.send_header("Content-Length", str(end - start))
            if part:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.end_headers()
            while body and start < end:
                offset = start % _BLOCK_SIZE
                count = min(end - start, _BLOCK_SIZE - offset, 1 << 20)
                self.wfile.write(block[offset : offset + count])
                start += count

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
