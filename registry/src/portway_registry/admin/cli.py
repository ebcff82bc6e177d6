"""The command portway-admin: its options and its commands. What each does is in the module of its name."""

from pathlib import Path
from typing import Any

import click

from portway_registry.admin.context import Admin, ExitCode, Failure
from portway_registry.admin.pki import pki
from portway_registry.errors import RegistryError

_EPILOG = """\
\b
Exit codes:
  0  done
  1  refused, not found, or failed on this machine
  2  the command line cannot be used
  3  the registry cannot be reached
  4  the token is missing, unknown, revoked, or not an admin's
"""


class _Group(click.Group):
    """Says an error of ours in one line instead of a traceback, and ends with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Failure as failure:
            click.echo(f"portway-admin: {failure}", err=True)
            ctx.exit(failure.code)
        except RegistryError as error:
            click.echo(f"portway-admin: {error}", err=True)
            ctx.exit(ExitCode.REFUSED)


@click.group(cls=_Group, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--registry", envvar="PORTWAY_REGISTRY", help="HOST:PORT of the registry, or several with commas.")
@click.option(
    "--token", envvar="PORTWAY_ADMIN_TOKEN", help="An admin's API token; visible to others in the process list."
)
@click.option("--token-file", type=click.Path(path_type=Path, dir_okay=False), help="A file that holds it.")
@click.option(
    "--ca",
    envvar="PORTWAY_CA",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The CA that the registry's certificate is from; by default the system's.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON for programs instead of tables.")
@click.version_option(package_name="portway-registry")
@click.pass_context
def main(
    ctx: click.Context,
    registry: str | None,
    token: str | None,
    token_file: Path | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Look after a Portway cluster: its nodes, tunnels and tokens."""
    ctx.obj = Admin(registry, token, token_file, ca, as_json)


main.add_command(pki)
