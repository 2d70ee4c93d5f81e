"""`shoal config docker` and its siblings, which differ in the runtime alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from shoal.cli.exits import BadConfiguration, ExitCode
from shoal.cli.frame import Command
from shoal.cli.options import (
    Invocation,
    any_upstream_option,
    general_options,
    json_option,
    listen_option,
    root_option,
    upstream_option,
)

if TYPE_CHECKING:
    from shoal.cli.runtimes.actions import Action
    from shoal.cli.runtimes.mirror import Mirror


def _command(name: str, title: str, files: str) -> click.Command:
    """The command of one runtime."""

    @click.command(
        name,
        cls=Command,
        examples=[
            f"shoal config {name}  # prints what would be written",
            f"sudo shoal config {name} --write",
            f"shoal config {name} --check",
        ],
        help=f"""Tell {title} to pull through this node.

        Prints {files} as it would be written, for the registries of --upstream or else all of the configuration. What
        others have put there stays; their mirrors are asked behind this node's. Of a file that is changed a copy is
        kept beside it, for --undo.
        """,
    )
    @general_options
    @listen_option
    @upstream_option
    @any_upstream_option
    @json_option
    @click.option("--write", is_flag=True, help="Write it, and say what to do so that it counts.")
    @click.option("--check", is_flag=True, help="Say whether pulls go through this node; exit code 1 if not.")
    @click.option("--undo", is_flag=True, help="Put back what was there before.")
    @root_option
    @click.pass_obj
    def command(invocation: Invocation, as_json: bool, root: Path, write: bool, check: bool, undo: bool) -> None:
        from shoal.cli.runtimes.actions import run
        from shoal.cli.runtimes.catalog import RUNTIMES
        from shoal.cli.runtimes.host import FileUnusable, Host

        if write + check + undo > 1:
            raise click.UsageError("--write, --check and --undo exclude each other")
        action: Action = "write" if write else "check" if check else "undo" if undo else "print"
        mirror = _mirror(invocation)
        try:
            outcome = run(RUNTIMES[name], action, Host(root), mirror)
        except FileUnusable as error:
            raise click.ClickException(str(error)) from None
        if as_json:
            click.echo(outcome.as_json())
        else:
            click.echo(outcome.as_text(), nl=False)
            click.echo(outcome.remarks(), nl=False, err=action != "check")
        if not outcome.is_good:
            click.get_current_context().exit(ExitCode.FAILED)

    return command


def _mirror(invocation: Invocation) -> Mirror:
    """The mirror for the registries that `--upstream` names, or for all of the configuration; raises
    `BadConfiguration`."""
    from shoal.cli.runtimes.mirror import mirror_of

    settings = invocation.configuration({"log": {"level": "warning"}}).proxy
    if not settings.port:
        raise BadConfiguration("proxy.port = 0 is not allowed here: a runtime has to know where the proxy listens")
    return mirror_of(settings, [path[2] for flag, path, _ in invocation.overrides if flag == "--upstream"])


docker = _command("docker", "docker", "/etc/docker/daemon.json")
containerd = _command("containerd", "containerd", "a hosts.toml for each registry in /etc/containerd/certs.d")
podman = _command("podman", "podman, buildah and skopeo", "a file in /etc/containers/registries.conf.d")
crio = _command("crio", "CRI-O", "a file in /etc/containers/registries.conf.d")
k3s = _command("k3s", "k3s", "/etc/rancher/k3s/registries.yaml")
rke2 = _command("rke2", "RKE2", "/etc/rancher/rke2/registries.yaml")
buildkit = _command("buildkit", "buildkitd", "/etc/buildkit/buildkitd.toml")
