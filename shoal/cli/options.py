"""Options that set keys of the configuration, before or behind the command's name."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shoal.cli.exits import BadConfiguration

if TYPE_CHECKING:
    from shoal.cli.configuration import Configuration
    from shoal.toml import KeyPath

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Invocation:
    """What the options say; one for the program and its command together."""

    file: Path | None = None
    print_config: bool = False
    as_json: bool = False
    overrides: list[tuple[str, KeyPath, object]] = field(default_factory=list)
    """Flags, the keys that they set, and to what (`shoal.settings.Override`)."""

    def configuration(self, defaults: Mapping[str, object] = MappingProxyType({})) -> Configuration:
        """The configuration of this run, with the logs set up; `--print-config` ends the program here.

        `defaults` are values that this command has where nobody says otherwise. Raises `BadConfiguration`.
        """
        from shoal.cli.configuration import Configuration
        from shoal.logs import set_up
        from shoal.settings import Override, SettingsError, load
        from shoal.toml import dump

        try:
            found = environment_proxies(os.environ)
            all_defaults = {"proxy": found, **defaults} if found else defaults
            configuration = load(Configuration, self.file, os.environ, starmap(Override, self.overrides), all_defaults)
        except SettingsError as error:
            raise BadConfiguration(str(error)) from None
        if self.print_config:
            text = dump(configuration)
            click.echo(json.dumps(tomllib.loads(text)) if self.as_json else text.rstrip())
            click.get_current_context().exit()
        set_up(configuration.log)
        return configuration


def environment_proxies(environ: Mapping[str, str]) -> dict[str, object]:
    """What `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say, in either case, as keys of the table `proxy`.

    Raises `BadConfiguration` for a proxy that is not spoken to over HTTP.
    """
    from shoal.fields import check_proxy_url

    found: dict[str, object] = {}
    for key in ("http_proxy", "https_proxy"):
        variable = key if environ.get(key) else key.upper()
        text = environ.get(variable, "")
        if not text:
            continue
        url = text if "://" in text else f"http://{text}"
        try:
            check_proxy_url(variable, url)
        except ValueError as error:
            raise BadConfiguration(f"environment variable {error}") from None
        found[key] = url
    excluded = environ.get("no_proxy") or environ.get("NO_PROXY", "")
    if excluded:
        found["no_proxy"] = [entry for entry in (part.strip() for part in excluded.split(",")) if entry]
    return found


def _invocation(context: click.Context) -> Invocation:
    return context.ensure_object(Invocation)


def _take_file(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    _invocation(context).file = value or _invocation(context).file


def _take_print(context: click.Context, _: click.Parameter, value: bool) -> None:
    _invocation(context).print_config |= value


def _take_json(context: click.Context, _: click.Parameter, value: bool) -> bool:
    _invocation(context).as_json |= value
    return value


def _setting(flag: str, path: KeyPath, metavar: str, text: str) -> Callable[[F], F]:
    """An option that sets one key."""

    def take(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            _invocation(context).overrides.append((flag, path, value))

    return click.option(flag, metavar=metavar, expose_value=False, callback=take, help=text)


def listen_option(table: str, text: str) -> Callable[[F], F]:
    """`--listen HOST:PORT` for the daemon whose table of the configuration is `table`."""

    def take(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is None:
            return
        host, colon, port = value.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host:
            raise click.BadParameter(f"{value!r} (allowed: HOST:PORT, such as 127.0.0.1:5080 or [::1]:5080)")
        _invocation(context).overrides.append(("--listen", (table, "host"), host))
        _invocation(context).overrides.append(("--listen", (table, "port"), port))

    return click.option("--listen", metavar="HOST:PORT", expose_value=False, callback=take, help=text)


def _take_upstreams(context: click.Context, _: click.Parameter, values: tuple[str, ...]) -> None:
    for value in values:
        name, equals, url = value.partition("=")
        if not equals or not name or not url:
            raise click.BadParameter(f"{value!r} (allowed: NAME=URL, such as quay.io=https://quay.io)")
        _invocation(context).overrides.append(("--upstream", ("proxy", "upstreams", name, "url"), url))


def _all(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


general_options = _all(
    click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_take_file,
        help="The configuration, a TOML file.",
    ),
    _setting("--log-level", ("log", "level"), "LEVEL", "debug, info, warning or error."),
    click.option(
        "--print-config",
        is_flag=True,
        expose_value=False,
        callback=_take_print,
        help="Print the configuration as it would be used, and exit.",
    ),
)
"""What every command has."""

store_option = _setting("--store", ("peer", "store"), "FOLDER", "Where blobs are kept.")
supernode_option = _setting("--supernode", ("peer", "supernode"), "URL", "The supernode, http://host:5090.")
upstream_option = click.option(
    "--upstream",
    metavar="NAME=URL",
    multiple=True,
    expose_value=False,
    callback=_take_upstreams,
    help="A registry to stand for, and where it is. May be given several times.",
)
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    callback=_take_json,
    help='Print the outcome as one JSON object; an error too, {"error": ..., "exit_code": ...}.',
)
"""Of every command that prints; it comes as the parameter `as_json`."""
