"""`make demo`: an origin, a supernode and four nodes, whose clients pull one image at the same moment."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench import images
from bench.daemons import REGISTRY, LocalNode, start_node, start_supernode
from bench.origin import open_origin
from shoal.cli.image import PullFailed, Silence, pull
from shoal.platforms import own_platform
from shoal.reference import Reference

NODES = 4
MAX_EGRESS = 1.02
"""Copies of the image that may leave the origin."""

_LAYERS = (121_000_000, 80_000_000, 60_000_000, 30_000_000, 10_000_000)
_REPOSITORY = "demo/image"


@dataclass(frozen=True)
class Node:
    """How one node's pull went. Bytes by where they came from."""

    name: str
    seconds: float
    mb_per_s: float
    origin_bytes: int
    peer_bytes: int
    verified: bool


@dataclass(frozen=True)
class Outcome:
    """What the demo shows."""

    nodes: list[Node]
    image_bytes: int
    origin_bytes: int
    origin_egress: float
    origin_requests: int
    verified: bool

    @property
    def good(self) -> bool:
        return self.verified and self.origin_egress <= MAX_EGRESS


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def main(as_json: bool) -> None:
    """Pull an image of 300 MB through a swarm of four nodes on this machine; status 0 only if every one verifies."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="shoal-demo-") as folder, ExitStack() as stack:
        outcome = _run(Path(folder), stack, console)
    click.echo(json.dumps(asdict(outcome), indent=2)) if as_json else _print(outcome)
    sys.exit(0 if outcome.good else 1)


def _run(folder: Path, stack: ExitStack, console: Console) -> Outcome:
    with console.status("making an image of 300 MB"):
        image = images.write_image(folder / "registry", _REPOSITORY, _LAYERS)
    with console.status("starting an origin, a supernode and four nodes"):
        origin = open_origin(stack, folder)
        supernode = start_supernode(stack, folder)
        nodes = [start_node(stack, folder, f"node {place}", origin.url, supernode) for place in range(1, NODES + 1)]
    with console.status(f"{NODES} clients pull {image.size / 1e6:.0f} MB through their nodes"):
        pulls = asyncio.run(_pull_all(folder, nodes, image))
    requests, sent = origin.traffic()
    rows = []
    for place, (node, (seconds, verified)) in enumerate(zip(nodes, pulls, strict=True), start=1):
        rate = round(image.size / seconds / 1e6, 1)
        received = node.received("origin"), node.received("peer")
        rows.append(Node(f"node {place}", round(seconds, 3), rate, *received, verified))
    return Outcome(rows, image.size, sent, round(sent / image.size, 4), requests, all(row.verified for row in rows))


async def _pull_all(folder: Path, nodes: list[LocalNode], image: images.BenchImage) -> list[tuple[float, bool]]:
    client = _skopeo if shutil.which("skopeo") else _built_in
    return await asyncio.gather(
        *(client(folder / f"pulled{place}", node.proxy, image) for place, node in enumerate(nodes))
    )


async def _skopeo(folder: Path, port: int, image: images.BenchImage) -> tuple[float, bool]:
    """Seconds of a pull, and whether what the client wrote is the image, re-hashed."""
    source = f"docker://127.0.0.1:{port}/{_REPOSITORY}:latest"
    command = ("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", source, f"dir:{folder}")
    began = time.monotonic()
    async with _process(*command) as process:
        _, errors = await process.communicate()
        status = process.returncode
    seconds = time.monotonic() - began
    if status != 0:
        click.echo(errors.decode(), err=True)
        return seconds, False
    return seconds, await asyncio.to_thread(_is_complete, folder, image)


@asynccontextmanager
async def _process(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _is_complete(folder: Path, image: images.BenchImage) -> bool:
    wanted = {digest.hex for digest, _ in image.blobs}
    return all((folder / name).is_file() and _sha256(folder / name) == name for name in wanted)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _built_in(_: Path, port: int, image: images.BenchImage) -> tuple[float, bool]:
    """Seconds of a pull by Shoal's own client, which checks each digest as it reads."""
    began = time.monotonic()
    reference = Reference.parse(f"{REGISTRY}/{_REPOSITORY}:latest")
    try:
        pulled = await pull(f"http://127.0.0.1:{port}", reference, own_platform(), Silence())
    except PullFailed as error:
        click.echo(str(error), err=True)
        return time.monotonic() - began, False
    return time.monotonic() - began, {blob.digest for blob in pulled.blobs} == {digest for digest, _ in image.blobs}


def _print(outcome: Outcome) -> None:
    table = Table(title=f"{NODES} nodes pull {outcome.image_bytes / 1e6:.0f} MB at once")
    for heading in ("node", "seconds", "MB/s", "MB from the origin", "MB from peers", "verified"):
        table.add_column(heading, justify="left" if heading == "node" else "right")
    for node in outcome.nodes:
        share = f"{node.origin_bytes / 1e6:.1f}", f"{node.peer_bytes / 1e6:.1f}"
        verified = "yes" if node.verified else "NO"
        table.add_row(node.name, f"{node.seconds:.2f}", f"{node.mb_per_s:.1f}", *share, verified)
    console = Console()
    console.print(table)
    console.print(f"origin egress: {outcome.origin_egress:.3f} x the image (at most {MAX_EGRESS})")
    console.print(f"origin requests: {outcome.origin_requests}")


if __name__ == "__main__":
    main()
