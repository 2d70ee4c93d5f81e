"""A view that is drawn anew each second until Ctrl-C ends it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import click
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from shoal.cli.tables import console

_SECONDS = 1.0

Answer = Mapping[str, Any]


def follow(ask: Callable[[], Answer], draw: Callable[[Answer, int], RenderableType], *, as_json: bool) -> None:
    """Ask and draw each second, for a width in characters; with JSON an answer is one line.

    Where the first answer is an error, it is raised; later ones are shown, and the next answer is waited for.
    """
    answer = ask()
    try:
        if as_json or not sys.stdout.isatty():
            while True:
                _print(answer, draw, as_json=as_json)
                time.sleep(_SECONDS)
                answer = _next(ask)
        screen = console()
        with Live(console=screen, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                live.update(_drawn(answer, draw, screen.width), refresh=True)
                time.sleep(_SECONDS)
                answer = _next(ask)
    except KeyboardInterrupt:  # how such a view is meant to end
        return


def _next(ask: Callable[[], Answer]) -> Answer:
    try:
        return ask()
    except click.ClickException as error:
        return {"error": error.message}


def _print(answer: Answer, draw: Callable[[Answer, int], RenderableType], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer))
    else:
        screen = console()
        screen.print(_drawn(answer, draw, screen.width))
        screen.print()
    sys.stdout.flush()


def _drawn(answer: Answer, draw: Callable[[Answer, int], RenderableType], width: int) -> RenderableType:
    return Text(str(answer["error"])) if "error" in answer else draw(answer, width)
