"""The command's group: its commands, and what becomes of an error."""

from typing import Any, Final

import click
from portway_runtime.errors import RuntimeFault
from portway_runtime.printable import printable_lines

from portway_server.cli.init import init
from portway_server.cli.join import join
from portway_server.cli.status import status
from portway_server.cli.up import up
from portway_server.errors import ServerError

_EPILOG = """\
\b
Exit codes:
  0    done
  1    refused, or failed
  2    the command line cannot be used
"""
_FAILED: Final = 1


class _Group(click.Group):
    """Prints an error of ours as lines of text, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ServerError, RuntimeFault) as error:
            click.echo(printable_lines(f"portway-server: {error}"), err=True)
            ctx.exit(_FAILED)


@click.group(cls=_Group, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="portway-server")
def commands() -> None:
    """Set up one machine of a Portway cluster, and run its registry and its relay node."""


for _command in (init, up, join, status):
    commands.add_command(_command)
