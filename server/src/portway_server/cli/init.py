"""`portway-server init`: the first machine of a cluster."""

from typing import Any

import click

from portway_server.cli.options import place_options, registry_options, tell_plan, wishes_of
from portway_server.plan import parent_records
from portway_server.settings_files import LETS_ENCRYPT
from portway_server.setup import planned, set_up

# The first name server of a cluster's domain is the first node that answers DNS.
_FIRST_SERVER = "ns1"


@click.command()
@click.option("--domain", required=True, help="The domain of the cluster, used for nothing else: tun.example.com.")
@click.option("--region", required=True, help="The region of this machine: a short name, such as fra.")
@registry_options
@place_options
def init(domain: str, region: str, overwrite: bool, **given: Any) -> None:
    """Set up this machine as the first one of a cluster: a registry and a relay node.

    Writes their settings and prints what to add at the parent zone. Starts nothing: `up` does, or systemd.
    """
    wishes = wishes_of(domain, region, given, registry=True)
    loopback = f"127.0.0.1:{wishes.ports.mesh}"
    made = planned(wishes)
    files, added = set_up(made, [loopback], overwrite=overwrite)
    tell_plan(made, files, added)
    if not wishes.certificates:
        click.echo(
            f"Certificates   from {wishes.acme.directory or LETS_ENCRYPT}: with `up` you agree to its terms of service"
        )
    if made.dns_listen:
        parent = wishes.domain.partition(".")[2]
        click.echo(f"\nAdd these records to the zone {parent}, at whoever serves it:\n")
        for record in parent_records(wishes.domain, f"{_FIRST_SERVER}.{wishes.domain}", made.public):
            click.echo(f"    {record}")
        click.echo("\nThen, or before it: `portway-server up`, or `systemctl enable --now portway-server`.")
    else:
        click.echo(
            f"\nLet {wishes.domain}, {wishes.zone} and *.{wishes.zone} lead to {' and '.join(made.public)}, then run "
            "`portway-server up`, or `systemctl enable --now portway-server`."
        )
