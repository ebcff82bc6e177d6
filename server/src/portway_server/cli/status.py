"""`portway-server status`: how this machine is."""

import asyncio
import os
from pathlib import Path

import click
from portway_runtime.printable import printable_json, printable_line

from portway_server.cli.options import config_option
from portway_server.config import load

_MARKS = {"GOOD": "ok", "WARNING": "look", "BAD": "BAD"}


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.pass_context
def status(ctx: click.Context, config: Path, as_json: bool) -> None:
    """Show what runs on this machine, its certificates, the delegation, and the cluster's nodes.

    Exit codes: 0 all is well, 3 something should be looked at, 4 something does not work.
    """
    # gRPC is imported late: `init` does without.
    from portway_server.status import Level, look_at

    found = asyncio.run(look_at(load(config, os.environ)))
    if as_json:
        findings = [
            {"what": one.what, "level": one.level.name.lower(), "text": one.text, "more": list(one.more)}
            for one in found
        ]
        click.echo(printable_json({"findings": findings}))
    else:
        width = max(len(one.what) for one in found)
        for one in found:
            click.echo(printable_line(f"{_MARKS[one.level.name]:<5} {one.what:<{width}}  {one.text}"))
            for line in one.more:
                click.echo(printable_line(f"      {'':<{width}}  {line}"))
    ctx.exit({Level.GOOD: 0, Level.WARNING: 3, Level.BAD: 4}[max(one.level for one in found)])
