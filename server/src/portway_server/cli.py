"""The command portway-server."""

import click
from portway_runtime.standard_streams import open_standard_streams


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="portway-server")
def commands() -> None:
    """Set up one machine of a Portway cluster, and run its registry and its relay node."""


def main() -> None:
    """Run the command and exit."""
    open_standard_streams()
    commands(prog_name="portway-server")
