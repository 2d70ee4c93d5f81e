"""Commands about what a store keeps: `pin`, `unpin`, `gc` and `verify`.

Through the daemon that has the store open, else on the store itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from peer.disk import StoreBusy, StoreError
from peer.store import Store
from proxy.administration import PIN_PATH, SWEEP_PATH, UNPIN_PATH, VERIFY_PATH
from proxy.catalogue import CATALOGUE, Catalogue, KnownTag
from proxy.changes import OrderRefused
from proxy.keeping import Keeping, last_known_of
from shoal.cli.options import Invocation, general_options, store_option
from shoal.cli.orders import ask, json_option
from shoal.digest import Digest
from shoal.reference import InvalidReference
from shoal.units import format_size

_POLL_SECONDS = 0.3


@click.command()
@general_options
@store_option
@json_option
@click.argument("image")
@click.pass_obj
def pin(invocation: Invocation, image: str, as_json: bool) -> None:
    """Keep IMAGE, a reference or a digest, in this node's store until it is unpinned.

    What is pinned is what the reference stands for now.
    """
    answer = _carry_out(invocation, PIN_PATH, {"image": image}, lambda keeping: keeping.pin(image))
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo(f"{answer['pinned']}: {answer['digest']} stays, {format_size(answer['bytes'])}")
    if answer["stored"] < answer["named"]:
        click.echo(f"{answer['stored']} of the {answer['named']} blobs that it names are in the store", err=True)


@click.command()
@general_options
@store_option
@json_option
@click.argument("image")
@click.pass_obj
def unpin(invocation: Invocation, image: str, as_json: bool) -> None:
    """Let IMAGE go when the store needs its room."""
    answer = _carry_out(invocation, UNPIN_PATH, {"image": image}, lambda keeping: keeping.unpin(image))
    click.echo(json.dumps(answer) if as_json else f"{answer['unpinned']}: not pinned any more")


@click.command()
@general_options
@store_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.pass_obj
def gc(invocation: Invocation, dry_run: bool, as_json: bool) -> None:
    """Remove from this node's store what no image needs, and what is above the low watermark."""
    answer = _carry_out(invocation, SWEEP_PATH, {"dry_run": dry_run}, lambda keeping: keeping.sweep(dry_run))
    if as_json:
        click.echo(json.dumps(answer))
        return
    for each in answer["removed"]:
        click.echo(f"{each['digest']} {each['reason']}, {len(each['blobs'])} blobs, {format_size(each['bytes'])}")
    click.echo(f"{format_size(answer['bytes'])} {'would be' if dry_run else 'were'} removed")


@click.command()
@general_options
@store_option
@json_option
@click.pass_obj
def verify(invocation: Invocation, as_json: bool) -> None:
    """Hash all that this node has stored. What is wrong goes to quarantine.

    A running daemon gets again what images need. Ends with status 1 where something is wrong and did not come back.
    """
    try:
        with _store_at_rest(invocation) as store:
            answer = _verified(store)
    except StoreBusy:
        answer = _verified_by_daemon(invocation)
    if answer["error"]:
        raise click.ClickException(str(answer["error"]))
    left = [digest for digest in answer["wrong"] if digest not in answer["mended"]]
    if as_json:
        click.echo(json.dumps(answer))
    else:
        for digest in answer["wrong"]:
            click.echo(f"{digest} was wrong{'' if digest in left else ', and has come again'}")
        size = format_size(answer["checked_bytes"])
        click.echo(f"{answer['checked']} blobs, {size}: {len(answer['wrong'])} wrong, {len(answer['mended'])} mended")
    if left:
        raise click.exceptions.Exit(1)


def _carry_out(
    invocation: Invocation, path: str, order: dict[str, object], at_rest: Callable[[Keeping], dict[str, object]]
) -> dict[str, Any]:
    try:
        with _store_at_rest(invocation) as store:
            for _ in _with_progress("hashing", store.unverified(), store.recheck()):
                pass
            return at_rest(Keeping(store, last_known_of(_known_tags(store.root / CATALOGUE))))
    except StoreBusy:
        return ask(invocation, "POST", path, order)
    except InvalidReference as error:
        raise click.BadParameter(str(error), param_hint="IMAGE") from None
    except OrderRefused as error:
        raise click.ClickException(str(error)) from None


@contextlib.contextmanager
def _store_at_rest(invocation: Invocation) -> Iterator[Store]:
    """The store, open; raises `StoreBusy` where a daemon has it, and `click.ClickException`."""
    settings = invocation.configuration({"log": {"level": "warning"}}).peer
    if not settings.store.is_dir():
        raise click.ClickException(f"there is no store at {settings.store}")
    store = Store(settings.store, settings.cache)
    try:
        store.open()
        try:
            yield store
        finally:
            store.close()
    except StoreBusy:
        raise
    except StoreError as error:
        raise click.ClickException(str(error)) from None


def _known_tags(path: Path) -> Sequence[KnownTag]:
    async def read() -> Sequence[KnownTag]:
        async with Catalogue(path) as catalogue:
            return catalogue.tags

    return asyncio.run(read()) if path.exists() else ()


def _verified(store: Store) -> dict[str, Any]:
    """Hash a store at rest; in the form of `proxy.verification`."""
    sizes = store.unverified() | dict(store.digests())
    found = dict(_with_progress("hashing", sizes, store.recheck(), store.verify()))
    return {
        "running": False,
        "blobs": len(sizes),
        "checked": len(found),
        "bytes": sum(sizes.values()),
        "checked_bytes": sum(sizes.get(digest, 0) for digest in found),
        "wrong": [digest for digest, right in found.items() if not right],
        "mended": [],
        "error": "",
    }


def _verified_by_daemon(invocation: Invocation) -> dict[str, Any]:
    answer = ask(invocation, "POST", VERIFY_PATH)
    with _bars() as bars:
        task = bars.add_task("hashing", total=answer["bytes"])
        while answer["running"]:
            time.sleep(_POLL_SECONDS)
            answer = ask(invocation, "GET", VERIFY_PATH)
            bars.update(task, completed=answer["checked_bytes"], total=answer["bytes"])
    return answer


def _with_progress(
    text: str, sizes: dict[Digest, int], *found: Iterable[tuple[Digest, bool]]
) -> Iterator[tuple[Digest, bool]]:
    """What is found, with a bar of its bytes on a terminal."""
    with _bars() as bars:
        task = bars.add_task(text, total=sum(sizes.values()))
        seen: set[Digest] = set()
        for each in found:
            for digest, right in each:
                bars.advance(task, sizes.get(digest, 0) if digest not in seen else 0)
                seen.add(digest)
                yield digest, right


def _bars() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
