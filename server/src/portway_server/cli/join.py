"""`portway-server join`: a further machine of a cluster."""

import os
import sys
from pathlib import Path
from typing import Any, Final

import click
from portway_runtime.endpoints import Endpoint, parse_endpoint
from portway_runtime.logs import configure_command

from portway_server.cli.options import FILE, place_options, registry_options, tell_plan, wishes_of
from portway_server.errors import SetupRefused
from portway_server.settings_files import RELAY_USER, relay_state
from portway_server.setup import demand_writable, make_folders, planned, set_up

_VARIABLE: Final = "PORTWAY_JOIN"


@click.command()
@click.argument("domain")
@click.option("--region", required=True, help="The region of this machine: a short name, such as iad.")
@click.option("--token-file", type=FILE, help=f"A file with the invitation, in place of {_VARIABLE} or the terminal.")
@click.option(
    "--join-at", metavar="HOST:PORT", help="A registry's port for clients; by default the invitation's, or DOMAIN:443."
)
@click.option("--registry-ca", type=FILE, help="The CA (PEM) of that registry, if it is no public one.")
@click.option("--registry", is_flag=True, help="Run a registry here too, beside those that share the etcd.")
@registry_options
@place_options
def join(
    domain: str,
    region: str,
    token_file: Path | None,
    join_at: str | None,
    registry_ca: Path | None,
    registry: bool,
    overwrite: bool,
    **given: Any,
) -> None:
    """Set up this machine as a further one of the cluster of DOMAIN.

    It needs an invitation, which `portway-admin node invite --region REGION` prints; the terminal asks for it. Joins at
    once, and writes the settings. Starts nothing: `up` does, or systemd.
    """
    # gRPC is imported late: `init` does without.
    from portway_server.joining import invitation_of, join_cluster

    configure_command("portway-server")
    wishes = wishes_of(domain, region, given, registry=registry)
    if registry and not wishes.etcd.urls:
        raise SetupRefused(
            "a further registry needs the etcd that the cluster's registries share: give --etcd. A cluster with the "
            "embedded store has one registry until it is moved to etcd (docs/more-machines.md)"
        )
    made = planned(wishes)
    demand_writable(made, overwrite=overwrite)
    text, source = _invitation(token_file)
    invitation = invitation_of(text, source, wishes.domain, _address(join_at))
    make_folders(made)
    state = relay_state(made)
    user = RELAY_USER if wishes.separate_users else None
    told = join_cluster(
        invitation, node=made.wishes.name, region=region, state=state, registry_ca=registry_ca, user=user
    )
    others = list(told) or [str(Endpoint(invitation.registry.host, wishes.ports.mesh))]
    own = [f"127.0.0.1:{wishes.ports.mesh}"] if registry else []
    files, added = set_up(made, [*own, *others], overwrite=overwrite)
    tell_plan(made, files, added)
    click.echo(f"Joined         the cluster of {wishes.domain}; its registries are at {', '.join(others)}")
    click.echo("\nNow: `portway-server up`, or `systemctl enable --now portway-server`.")


def _invitation(file: Path | None) -> tuple[str, str]:
    """The invitation, and where it is from. Raises SetupRefused and UsageError."""
    if file is not None:
        try:
            return file.read_text("utf-8", "replace"), f"--token-file {file}"
        except OSError as error:
            raise SetupRefused(f"cannot read --token-file {file}: {error.strerror}") from error
    if text := os.environ.get(_VARIABLE):
        return text, _VARIABLE
    if not sys.stdin.isatty():
        raise click.UsageError(f"no invitation: give --token-file FILE or {_VARIABLE}, or type it on a terminal")
    return str(click.prompt("Invitation", hide_input=True)), "what was typed"


def _address(text: str | None) -> Endpoint | None:
    """Raises UsageError."""
    try:
        return None if text is None else parse_endpoint(text)
    except ValueError as error:
        raise click.UsageError(f"--join-at {text!r}: {error}") from None
