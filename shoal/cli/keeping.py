"""What a store keeps, through the daemon that has the store open, else on the store itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from peer.disk import StoreBusy, StoreError
from peer.store import Store
from proxy.catalogue import CATALOGUE, Catalogue
from proxy.keeping import Keeping, last_known_of
from shoal.changes import OrderRefused
from shoal.cli.exits import NoDaemon
from shoal.cli.options import Invocation
from shoal.cli.orders import ask
from shoal.cli.progress import bars
from shoal.digest import Digest
from shoal.reference import InvalidReference


def carry_out(
    invocation: Invocation,
    method: str,
    path: str,
    order: Mapping[str, object] | None,
    at_rest: Callable[[Keeping, Catalogue], dict[str, object]],
) -> dict[str, Any]:
    """The daemon's answer to an order, or what `at_rest` gives where no daemon has the store open.

    Raises `click.ClickException`.
    """

    def with_keeping(store: Store) -> dict[str, Any]:
        if waiting := store.unverified():
            for _ in with_progress("hashing", waiting, store.recheck()):
                pass
        return asyncio.run(_with_catalogue(store, at_rest))

    try:
        return through(invocation, with_keeping, lambda: ask(invocation, method, path, order))
    except InvalidReference as error:
        raise click.BadParameter(str(error), param_hint="IMAGE") from None
    except OrderRefused as error:
        raise click.ClickException(str(error)) from None


def through(
    invocation: Invocation, at_rest: Callable[[Store], dict[str, Any]], by_daemon: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What `by_daemon` gives where a daemon has the store open, else what `at_rest` does.

    Where there is no store, or it is somebody else's, a daemon may answer all the same. Raises `click.ClickException`.
    """
    settings = invocation.configuration({"log": {"level": "warning"}}).peer
    reason = why_closed(settings.store)
    try:
        if not reason:
            with _opened(Store(settings.store, settings.cache)) as store:
                return at_rest(store)
    except StoreBusy:
        return by_daemon()
    except StoreError as error:
        if not is_forbidden(error):
            raise click.ClickException(str(error)) from None
        reason = f"{error} (run it as root or as the daemon's user)"
    try:
        return by_daemon()
    except NoDaemon as error:
        raise NoDaemon(f"{reason}, and {error.message}") from None


def why_closed(store: Path) -> str:
    """Why this user has nothing to open there; empty where it may be tried.

    What root makes in a store of the daemon's user would be closed to the daemon.
    """
    try:
        status = store.stat()
    except (FileNotFoundError, NotADirectoryError):
        return f"there is no store at {store}"
    except OSError as error:
        return f"the store {store} cannot be seen: {error.strerror}"
    if not stat.S_ISDIR(status.st_mode):
        return f"there is no store at {store}"
    if os.geteuid() == 0 != status.st_uid:
        return f"the store {store} is another user's than root (run it as that one: `sudo -u '#{status.st_uid}' ...`)"
    return ""


def is_forbidden(error: StoreError) -> bool:
    """Whether the store is not this user's."""
    return isinstance(error.__cause__, PermissionError)


async def _with_catalogue(
    store: Store, at_rest: Callable[[Keeping, Catalogue], dict[str, object]]
) -> dict[str, object]:
    path = store.root / CATALOGUE
    async with Catalogue(path if path.exists() else None) as catalogue:
        return at_rest(Keeping(store, last_known_of(catalogue.tags), catalogue.repositories), catalogue)


@contextlib.contextmanager
def _opened(store: Store) -> Iterator[Store]:
    """Raises `StoreError`."""
    store.open()
    try:
        yield store
    finally:
        store.close()


def with_progress(
    text: str, sizes: dict[Digest, int], *found: Iterable[tuple[Digest, bool]]
) -> Iterator[tuple[Digest, bool]]:
    """What is found, with a bar of its bytes on a terminal."""
    with bars(Console(stderr=True)) as shown:
        task = shown.add_task(text, total=sum(sizes.values()))
        seen: set[Digest] = set()
        for each in found:
            for digest, right in each:
                shown.advance(task, sizes.get(digest, 0) if digest not in seen else 0)
                seen.add(digest)
                yield digest, right
