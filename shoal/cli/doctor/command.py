"""`shoal doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from shoal.cli.exits import BadConfiguration, ExitCode
from shoal.cli.frame import Command
from shoal.cli.options import Invocation, json_option, node_options, root_option, supernode_option


@click.command(
    cls=Command,
    examples=[
        "sudo shoal doctor",
        "sudo shoal doctor --image docker.io/library/alpine:3.20",
        "shoal doctor --json",
    ],
)
@supernode_option
@node_options
@json_option
@click.option("--image", metavar="IMAGE", default="", help="Also have the mirror say what this image's tag stands for.")
@root_option
@click.pass_obj
def doctor(invocation: Invocation, as_json: bool, image: str, root: Path) -> None:
    """Look at the whole way of a pull, and say what to do about each fault.

    The configuration, the daemon, container runtimes, the supernode, other nodes, origins and credentials, the clock,
    the disk, file descriptors, and whether pulls use all that. Takes 10 s at most, changes nothing, and works whether
    or not the daemon runs; who is not root sees less. The exit code is 1 where something is broken, not for warnings.
    """
    from shoal.cli.doctor import report
    from shoal.cli.doctor.examination import examine, unusable
    from shoal.cli.runtimes.host import Host

    try:
        configuration = invocation.configuration({"log": {"level": "error"}})
    except BadConfiguration as error:
        parts, broken = unusable(error.message), ExitCode.UNUSABLE
    else:
        parts, broken = examine(configuration, invocation.file, Host(root), image), ExitCode.FAILED
    if as_json:
        click.echo(json.dumps(report.as_json(parts)))
    else:
        for line in report.lines(parts):
            click.echo(line)
    if report.has_errors(parts):
        click.get_current_context().exit(broken)
