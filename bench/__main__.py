"""`python -m bench NAME`: one measurement, or all of them, or the report."""

from __future__ import annotations

import importlib

import click

MEASUREMENTS = {
    "hit": "A cached blob from the proxy, against nginx and distribution's cache.",
    "miss": "An image that is not cached, against a direct pull and other caches.",
    "small": "An image of many small layers, cold and warm.",
    "pair": "From one peer to one peer, verified and written.",
    "swarm": "Many nodes on shaped links, against the lower bound.",
    "memory": "Resident memory of a peer that pulls large blobs.",
    "control": "Control messages of one supernode.",
    "sim": "Simulated swarms of up to 10,000 peers.",
    "preheating": "A pull beside a preheat, simulated.",
}
_OTHERS = {"report": "Draw the results into docs/benchmarks.md."}


class _Group(click.Group):
    """Commands are imported when they are asked for: each has needs of its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*MEASUREMENTS, "all", *_OTHERS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "all":
            return run_all
        if cmd_name not in MEASUREMENTS and cmd_name not in _OTHERS:
            return None
        command: click.Command = importlib.import_module(f"bench.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*MEASUREMENTS.items(), ("all", "All measurements, then the report."), *_OTHERS.items()])


@click.group(cls=_Group)
def main() -> None:
    """Measures Shoal side by side with other programs, and against bounds. Each has its own `--help`."""


@click.command("all")
@click.pass_context
def run_all(context: click.Context) -> None:
    """Run every measurement with its defaults, then draw the report; one that cannot run here is named at the end."""
    failed: dict[str, str] = {}
    for name in MEASUREMENTS:
        try:
            importlib.import_module(f"bench.{name}").command.main(args=[], standalone_mode=False)
        except click.ClickException as error:
            failed[name] = error.message
    importlib.import_module("bench.report").command.main(args=[], standalone_mode=False)
    for name, reason in failed.items():
        click.echo(f"{name} did not run: {reason}", err=True)
    context.exit(1 if failed else 0)


if __name__ == "__main__":
    main(prog_name="python -m bench")
