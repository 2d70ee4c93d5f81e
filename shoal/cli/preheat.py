"""`shoal preheat` and `shoal preheats`."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shoal.cli.exits import ExitCode, NoDaemon
from shoal.cli.frame import Command
from shoal.cli.options import Invocation, general_options, json_option, lead_options

if TYPE_CHECKING:
    from shoal.cli.orders import Operated

_PATH = "/v1/preheats"


@click.command(
    cls=Command,
    examples=[
        "shoal preheat docker.io/library/alpine:3.20",
        "shoal preheat --nodes rack=b4,50% --pin --rate 200MB/s quay.io/prometheus/prometheus:v3.0.0",
        "shoal preheat --file base-images.txt --platform linux/amd64 --platform linux/arm64 --detach",
        "shoal preheat --at http://10.0.0.1:5091 --token-file preheat-token docker.io/library/redis:7",
    ],
)
@general_options
@lead_options
@click.option("--nodes", default="all", help="all, a number, 20%, label=value, name=NODE, or several with commas.")
@click.option("--platform", multiple=True, metavar="OS/ARCH", help="Of images for several, or all. Each node's own.")
@click.option("--concurrency", default=100, type=click.IntRange(min=1), show_default=True, help="Nodes at a time.")
@click.option("--rate", metavar="RATE", help="What each node takes at most, such as 200MB/s.")
@click.option("--pin", is_flag=True, help="Have the nodes keep the images.")
@click.option("--referrers/--no-referrers", default=True, help="Signatures, SBOMs and the like, too. They come.")
@click.option("--file", "lists", multiple=True, metavar="FILE", help="A list of images, one a line. - reads.")
@click.option("--detach", is_flag=True, help="Print the preheat's id and do not wait.")
@json_option
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.pass_obj
def preheat(
    invocation: Invocation,
    /,
    at: str | None,
    token_file: Path | None,
    lists: tuple[str, ...],
    images: tuple[str, ...],
    rate: str | None,
    platform: tuple[str, ...],
    detach: bool,
    as_json: bool,
    **order: Any,
) -> None:
    """Have nodes pull each IMAGE before a client asks for it, behind all that clients wait for.

    The supernode leads it and this command shows how it goes. What it says at the end the nodes have checked: each blob
    of what is called done lies in the node's store, verified. Ctrl-C cancels it on all nodes; what is complete stays,
    and what has begun goes on from there the next time.
    """
    from shoal.cli.lead import lead

    wanted = [*images, *_listed(lists)]
    if not wanted:
        raise click.UsageError("name an image, or a list of images by --file")
    order |= {"images": _references(wanted), "platforms": list(platform), "rate": _rate(rate)}
    supernode = lead(invocation, at, token_file)
    if detach:
        job = supernode.ask("POST", _PATH, order)
        click.echo(json.dumps(job) if as_json else job["id"])
        return
    _follow(supernode, lambda: supernode.ask("POST", _PATH, order), as_json=as_json)


@click.command(
    cls=Command,
    examples=["shoal preheats", "shoal preheats 5f0c1e9a77b2", "shoal preheats 5f0c1e9a77b2 --cancel"],
)
@general_options
@lead_options
@click.option("--follow", is_flag=True, help="Show how the one of this ID goes until it ends. Ctrl-C cancels it.")
@click.option("--cancel", is_flag=True, help="Have the one of this ID stop. What is complete stays.")
@json_option
@click.argument("id_", metavar="[ID]", required=False)
@click.pass_obj
def preheats(
    invocation: Invocation,
    at: str | None,
    token_file: Path | None,
    id_: str | None,
    follow: bool,
    cancel: bool,
    as_json: bool,
) -> None:
    """List preheats, or show the one of this ID: each image on each node."""
    from urllib.parse import quote

    from shoal.cli.lead import lead
    from shoal.cli.preheating import line, outcome

    supernode = lead(invocation, at, token_file)
    if id_ is None:
        if follow or cancel:
            raise click.UsageError("name a preheat by its ID")
        listed = supernode.ask("GET", _PATH)
        summaries = "\n".join(map(_summary, listed["preheats"])) or "No preheat is known."
        click.echo(json.dumps(listed) if as_json else summaries)
        return
    path = f"{_PATH}/{quote(id_, safe='')}"
    if cancel:
        job = supernode.ask("DELETE", path)
        click.echo(json.dumps(job) if as_json else _summary(job))
        return
    if follow:
        _follow(supernode, lambda: supernode.ask("GET", path), as_json=as_json)
        return
    job = supernode.ask("GET", path)
    if as_json:
        click.echo(json.dumps(job))
        return
    click.echo(outcome(job))
    for run in job["runs"]:
        for image in run["images"]:
            if image["state"] == "done":
                click.echo(line(run["node"], image))


def _follow(supernode: Operated, begin: Callable[[], dict[str, Any]], *, as_json: bool) -> None:
    """Show the preheat that `begin` gives until it ends, and end with its outcome."""
    from rich.console import Console

    from shoal.cli.preheating import Watcher, outcome

    id_, interrupted, last = "", False, None
    with Watcher(Console(stderr=True)) as watcher:
        while last is None or last["ended"] is None:
            try:
                if not id_:
                    with _interrupted_later():  # what has begun can be cancelled only by its id
                        id_ = begin()["id"]
                with _going_on(id_):
                    for last in supernode.events(f"{_PATH}/{id_}/events"):
                        watcher.show(last)
                if last is None or last["ended"] is None:
                    watcher.lost()
            except KeyboardInterrupt:
                if interrupted or not id_:
                    raise
                interrupted = True
                with _interrupted_later(), _going_on(id_):
                    supernode.ask("DELETE", f"{_PATH}/{id_}")
    job = watcher.whole(last)
    click.echo(json.dumps(job) if as_json else outcome(job))
    if interrupted:
        raise click.exceptions.Exit(ExitCode.INTERRUPTED)
    if job["state"] != "done":
        raise click.exceptions.Exit(ExitCode.FAILED)


@contextmanager
def _going_on(id_: str) -> Iterator[None]:
    """Where the supernode is gone, say that the preheat is not."""
    try:
        yield
    except NoDaemon as error:
        raise NoDaemon(
            f"{error.message}\nNodes go on with the preheat {id_}: when the supernode is back, `shoal preheats {id_}` "
            "shows it, with --cancel it is cancelled."
        ) from None


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Have Ctrl-C wait for the end of this; a second one does not."""
    pressed: list[int] = []

    def press(number: int, _: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _listed(lists: Iterable[str]) -> list[str]:
    """The references in files, without comments."""
    lines: list[str] = []
    for name in lists:
        try:
            with click.open_file(name, encoding="utf-8-sig") as file:
                lines += [line.partition("#")[0].strip() for line in file]
        except OSError as error:
            raise click.BadParameter(f"{name}: {error.strerror}", param_hint="--file") from None
        except UnicodeDecodeError as error:
            raise click.BadParameter(f"{name}: {error}", param_hint="--file") from None
    return [line for line in lines if line]


def _references(images: Iterable[str]) -> list[str]:
    from shoal.reference import InvalidReference, Reference
    from supernode.preheating.order import MAX_IMAGES

    try:
        references = list(dict.fromkeys(str(Reference.parse(image)) for image in images))
    except InvalidReference as error:
        raise click.BadParameter(str(error), param_hint="IMAGE") from None
    if len(references) > MAX_IMAGES:
        raise click.UsageError(f"a preheat takes {MAX_IMAGES} images, and these are {len(references)}: split the list")
    return references


def _rate(text: str | None) -> int:
    from shoal.units import parse_rate

    try:
        return int(parse_rate(text)) if text else 0
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--rate") from None


def _summary(job: dict[str, Any]) -> str:
    images = job["images"]
    more = f" and {len(images) - 1} more" if len(images) > 1 else ""
    tasks = ", ".join(f"{count} {state}" for state, count in job["tasks"].items() if count)
    return f"{job['id']}  {job['created']}  {job['state']}  {images[0]}{more} ({tasks}) by {job['by']}"
