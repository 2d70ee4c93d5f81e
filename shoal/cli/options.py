"""Options that set keys of the configuration, before or behind the command's name."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shoal.cli.exits import BadConfiguration
from shoal.cli.listening import parse_listening

if TYPE_CHECKING:
    from shoal.cli.configuration import Configuration
    from shoal.toml import KeyPath

F = TypeVar("F", bound=Callable[..., Any])

_PATHS = {"FILE": click.Path(dir_okay=False), "FOLDER": click.Path(file_okay=False)}
"""What a shell completes."""

ADDRESS_HINT = "HOST or :PORT alone leaves the other as it is."


class InvocationOption(click.Option):
    """An option that sets something of the `Invocation`."""

    def __init__(self, *args: Any, general: bool, sets: Sequence[KeyPath], **attributes: Any) -> None:
        """`general`: all commands have it, and help shows it below those of the command itself. `sets`: the keys of the
        configuration that it sets; `*` stands for a name that is given."""
        super().__init__(*args, **attributes)
        self.general = general
        self.sets = sets


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
        from shoal.logs import set_up
        from shoal.toml import dump

        configuration = self.read(defaults)
        if self.print_config:
            text = dump(configuration)
            click.echo(json.dumps(tomllib.loads(text)) if self.as_json else text.rstrip())
            click.get_current_context().exit()
        set_up(configuration.log)
        return configuration

    def read(self, defaults: Mapping[str, object] = MappingProxyType({})) -> Configuration:
        """What the file, the environment and the flags say now; raises `BadConfiguration`."""
        from shoal.cli.configuration import Configuration
        from shoal.settings import Override, SettingsError, load

        try:
            found = environment_proxies(os.environ)
            all_defaults = {"proxy": found, **defaults} if found else defaults
            return load(Configuration, self.file, os.environ, starmap(Override, self.overrides), all_defaults)
        except SettingsError as error:
            raise BadConfiguration(str(error)) from None


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


def _option(*names: str, general: bool = False, sets: Sequence[KeyPath] = (), **attributes: Any) -> Callable[[F], F]:
    """An option that sets something of the invocation (`InvocationOption`)."""
    return click.option(*names, cls=InvocationOption, expose_value=False, general=general, sets=sets, **attributes)


def _setting(flag: str, path: KeyPath, metavar: str, text: str, general: bool = False) -> Callable[[F], F]:
    """An option that sets one key."""

    def take(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            _invocation(context).overrides.append((flag, path, value))

    kind = _PATHS.get(metavar)
    return _option(flag, metavar=metavar, type=kind, callback=take, help=text, general=general, sets=[path])


def _switch(flag: str, path: KeyPath, text: str) -> Callable[[F], F]:
    """An option that sets one key to true."""

    def take(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            _invocation(context).overrides.append((flag, path, True))

    return _option(flag, is_flag=True, callback=take, help=text, sets=[path])


def _address(flag: str, table: KeyPath, text: str) -> Callable[[F], F]:
    """An option that says where one port listens, or is asked: `host` and `port` of a table."""

    def take(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is None:
            return
        try:
            listening = parse_listening(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
        for key, part in zip(("host", "port"), listening, strict=True):
            if part is not None:
                _invocation(context).overrides.append((flag, (*table, key), part))

    sets = [(*table, "host"), (*table, "port")]
    return _option(flag, metavar="HOST:PORT", callback=take, help=text, sets=sets)


def _entries(
    flag: str, metavar: str, entry: Callable[[str], tuple[KeyPath, object]], text: str, sets: KeyPath
) -> Callable[[F], F]:
    """An option that may be given several times, each time for a key of its own. `entry` raises `ValueError`."""

    def take(context: click.Context, _: click.Parameter, values: tuple[str, ...]) -> None:
        for value in values:
            try:
                path, set_to = entry(value)
            except ValueError as error:
                raise click.BadParameter(str(error)) from None
            _invocation(context).overrides.append((flag, path, set_to))

    text = f"{text} May be given several times."
    return _option(flag, metavar=metavar, multiple=True, callback=take, help=text, sets=[sets])


def _upstream(text: str) -> tuple[KeyPath, object]:
    name, equals, url = text.partition("=")
    if not name or (equals and not url):
        raise ValueError(f"{text!r} (allowed: NAME or NAME=URL, such as quay.io or quay.io=https://quay.io)")
    path = ("proxy", "upstreams", name)
    return ((*path, "url"), url) if equals else (path, {})


def _label(text: str) -> tuple[KeyPath, object]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"{text!r} (allowed: NAME=VALUE, such as rack=b4)")
    return ("peer", "labels", name), value


def _all(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


general_options = _all(
    _option(
        "--config",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=_take_file,
        help="The configuration, a TOML file.",
        general=True,
    ),
    _setting("--log-level", ("log", "level"), "LEVEL", "debug, info, warning or error.", general=True),
    _setting("--log-format", ("log", "format"), "FORMAT", "console, for people, or json.", general=True),
    _option(
        "--print-config",
        is_flag=True,
        callback=_take_print,
        help="Print the configuration as it would be used, and exit.",
        general=True,
    ),
)
"""What every command has."""

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    callback=_take_json,
    help='Print the outcome as one JSON object; an error too, {"error": ..., "exit_code": ...}.',
)
"""Of every command that prints; it comes as the parameter `as_json`."""

supernode_option = _setting("--supernode", ("peer", "supernode"), "URL", "The supernode, http://host:5090.")
root_option = click.option(
    "--root",
    metavar="FOLDER",
    default="/",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the host's file system is mounted, such as /host in a container.",
)
listen_option = _address("--listen", ("proxy",), f"Where clients reach the node. {ADDRESS_HINT}")
store_option = _setting("--store", ("peer", "store"), "FOLDER", "Where blobs are kept.")
operations_option = _address("--operations", ("peer", "operations"), "The node's operations port.")
upstream_option = _entries(
    "--upstream",
    "NAME[=URL]",
    _upstream,
    "A registry to stand for, and where it is if not at https://NAME.",
    ("proxy", "upstreams", "*", "url"),
)
any_upstream_option = _switch(
    "--any-upstream", ("proxy", "any_upstream"), "Stand for every registry with a public name too."
)
cluster_options = _all(
    _setting(
        "--secret-file",
        ("cluster", "secret_file"),
        "FILE",
        "A file with the secret by which the cluster's members know each other (openssl rand -hex 32).",
    ),
    _switch("--insecure", ("cluster", "insecure"), "Let everybody be a member who reaches the ports."),
)
"""By what members know each other."""

order_options = _all(general_options, operations_option, store_option, json_option)
"""Of commands that ask this machine's node, or look at its store."""

state_option = _setting("--state", ("supernode", "state"), "FOLDER", "Where a supernode keeps what outlives a restart.")

cluster_order_options = _all(
    click.option("--cluster", "of_cluster", is_flag=True, help="Ask the supernode, and not this machine's node."),
    _address("--supernode-operations", ("supernode", "operations"), "The supernode's operations port."),
    _setting(
        "--token-file", ("supernode", "operations", "token_file"), "FILE", "The operator's token of that supernode."
    ),
    state_option,
)
"""Of commands that ask the supernode too."""

node_options = _all(
    general_options,
    listen_option,
    _address("--peer-listen", ("peer",), "Where other peers reach it."),
    operations_option,
    cluster_options,
    _setting("--advertise", ("peer", "advertise"), "HOST", "The host that other peers are told, behind NAT."),
    _setting("--zone", ("peer", "zone"), "NAME", "What is near: peers prefer neighbours of their own zone."),
    _setting("--name", ("peer", "name"), "NAME", "What people call this node. The machine's name."),
    _entries(
        "--label",
        "NAME=VALUE",
        _label,
        "By what people choose this node among others.",
        ("peer", "labels"),
    ),
    store_option,
    _setting("--cache-size", ("peer", "cache", "high"), "SIZE", "The most that the store holds: 200GiB, or 80%."),
    _setting(
        "--containerd",
        ("peer", "containerd"),
        "FOLDER",
        "containerd's root, /var/lib/containerd: what it holds is offered to other peers.",
    ),
    upstream_option,
    any_upstream_option,
    _switch("--forward-proxy", ("proxy", "tunnel", "enabled"), "Be an HTTPS_PROXY for clients too."),
)
"""Of daemons that are a node."""


def supernode_options(own: bool) -> Callable[[F], F]:
    """Of daemons that are a supernode. `own`: they are nothing else, so that their ports have the plain names."""
    return _all(
        _address(
            "--listen" if own else "--supernode-listen",
            ("supernode",),
            f"Where peers reach the supernode. {ADDRESS_HINT if own else ''}".rstrip(),
        ),
        _address(
            "--operations" if own else "--supernode-operations",
            ("supernode", "operations"),
            "The supernode's operations port.",
        ),
        state_option,
    )


def lead_options(command: F) -> F:
    """`--at` and `--token-file`, of what is asked of a supernode (`shoal.cli.lead`)."""
    at = click.option(
        "--at",
        metavar="URL",
        help="The supernode's operations port, such as http://10.0.0.1:5091. Where the configuration has it.",
    )
    token_file = click.option(
        "--token-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="The operator's token, or one that may preheat. The supernode's own file.",
    )
    return at(token_file(command))
