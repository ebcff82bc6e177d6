"""The command portway-admin: its global options and its commands, each of which is in the module of its name."""

from pathlib import Path
from typing import Any, Final

import click
from portway_runtime.standard_streams import drop_standard_output
from portway_runtime.version import VERSION

from portway_registry.admin_cli.audit import audit
from portway_registry.admin_cli.backup import backup
from portway_registry.admin_cli.ca import ca as ca_group
from portway_registry.admin_cli.certificate import certificate
from portway_registry.admin_cli.connection import ExitCode, Failure, GlobalOptions
from portway_registry.admin_cli.dns import dns
from portway_registry.admin_cli.doctor import doctor
from portway_registry.admin_cli.front_key import front_key
from portway_registry.admin_cli.grant_key import grant_key
from portway_registry.admin_cli.invitation import invitation
from portway_registry.admin_cli.node import node
from portway_registry.admin_cli.output import print_text
from portway_registry.admin_cli.pki import pki
from portway_registry.admin_cli.tenant import tenant
from portway_registry.admin_cli.token import token
from portway_registry.admin_cli.tunnel import tunnel
from portway_registry.errors import RegistryError

_EPILOG = """\
\b
Nouns may be plural: `nodes list` is `node list`.

\b
Exit codes:
  0    done
  1    refused, not found, or failed on this machine
  2    the command line cannot be used
  3    the registry cannot be reached
  4    the token is missing, unknown, revoked, or not an admin's
  10   doctor: warnings
  11   doctor: errors
  130  interrupted, as a watch usually ends
  141  standard output was closed by its reader
"""
_PLURALS: Final = {
    "nodes": "node",
    "invitations": "invitation",
    "tunnels": "tunnel",
    "tenants": "tenant",
    "tokens": "token",
    "grant-keys": "grant-key",
    "front-keys": "front-key",
    "certificates": "certificate",
}


class _NounGroup(click.Group):
    """Accepts plural nouns; prints an error of ours as one line, without a traceback, and exits with its code."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, _PLURALS.get(cmd_name, cmd_name))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(ExitCode.INTERRUPTED)
        except BrokenPipeError:
            drop_standard_output()
            ctx.exit(ExitCode.READER_GONE)
        except Failure as failure:
            print_text(f"portway-admin: {failure}", err=True)
            ctx.exit(failure.code)
        except RegistryError as error:
            print_text(f"portway-admin: {error}", err=True)
            ctx.exit(ExitCode.REFUSED)


@click.group(cls=_NounGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--registry",
    envvar="PORTWAY_REGISTRY",
    help="HOST or HOST:PORT of the registry, or several with commas: its --admin-listen, if it has one. Without a port "
    "it is 443, where nodes pass connections on.",
)
@click.option(
    "--token", envvar="PORTWAY_ADMIN_TOKEN", help="An admin's API token. Other users can see it in the process list."
)
@click.option("--token-file", type=click.Path(path_type=Path, dir_okay=False), help="A file with the token.")
@click.option(
    "--ca",
    envvar="PORTWAY_CA",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The CA that the registry's certificate is from; by default the system's CAs.",
)
@click.option(
    "--proxy",
    envvar="PORTWAY_PROXY",
    help="The HTTP proxy to reach the registry through, as http://HOST:PORT; 'direct' is none. Other variables that "
    "name proxies are not heeded.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text; may also follow the command.")
@click.version_option(VERSION)
@click.pass_context
def main(
    ctx: click.Context,
    registry: str | None,
    token: str | None,
    token_file: Path | None,
    ca: Path | None,
    proxy: str | None,
    as_json: bool,
) -> None:
    """Look after a Portway cluster: its nodes, tunnels, tenants, tokens, keys and certificates.

    The registry, the token, the CA and the proxy are also read from PORTWAY_REGISTRY, PORTWAY_ADMIN_TOKEN, PORTWAY_CA
    and PORTWAY_PROXY.
    """
    ctx.obj = GlobalOptions(registry, token, token_file, ca, as_json, proxy)


for _command in (
    node,
    invitation,
    tunnel,
    tenant,
    token,
    grant_key,
    front_key,
    ca_group,
    certificate,
    dns,
    audit,
    backup,
    doctor,
    pki,
):
    main.add_command(_command)
