"""`portway-admin pki`: the local certificate authority. Nothing here talks to a registry."""

from pathlib import Path

import click

from portway_registry.admin_cli.connection import Admin, pass_admin
from portway_registry.pki.ca_folder import CaFolder, check_names

# Where a registry on one's own machine is dialled.
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")

_folder = click.option(
    "--dir",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of the CA and of what it signed.",
)


@click.group()
def pki() -> None:
    """Make the cluster's certificate authority and certificates, as files."""


@pki.command()
@_folder
@click.option("--domain", required=True, help="What follows the region in tunnels' host names.")
@click.option("--region", "regions", multiple=True, help="A region to make a certificate for (repeatable).")
@click.option(
    "--node",
    "nodes",
    multiple=True,
    help="A node to make a certificate for (repeatable); of the region, if one is named.",
)
@click.option(
    "--registry-host",
    "hosts",
    multiple=True,
    help="A name or address that the registry is dialled at (repeatable; by default this machine alone).",
)
@pass_admin
def init(
    admin: Admin,
    folder: Path,
    domain: str,
    regions: tuple[str, ...],
    nodes: tuple[str, ...],
    hosts: tuple[str, ...],
) -> None:
    """Make a CA, the registry's certificate, and one for each region and node named.

    An existing CA is never overwritten.
    """
    check_names(domain, regions, nodes, hosts)
    authority = CaFolder.create(folder)
    written = [folder / "ca.crt", folder / "ca.key"]
    written += authority.add_registry(hosts or _LOCAL_HOSTS)
    for name in nodes:
        # With several regions nobody has said which one it is of.
        written += authority.add_node(name, regions[0] if len(regions) == 1 else "")
    for region in regions:
        written += authority.add_region(region, domain)
    _report(admin, written)


@pki.command()
@_folder
@click.option("--region", default="", help="The region that the node is of; by default it may be of any.")
@click.argument("name")
@pass_admin
def node(admin: Admin, folder: Path, region: str, name: str) -> None:
    """Add a node's certificate to an existing folder. A node that joins by invitation needs none."""
    _report(admin, CaFolder.open(folder).add_node(name, region))


@pki.command()
@_folder
@click.option("--domain", required=True, help="What follows the region in tunnels' host names.")
@click.argument("name")
@pass_admin
def region(admin: Admin, folder: Path, domain: str, name: str) -> None:
    """Add a region's certificate to an existing folder."""
    _report(admin, CaFolder.open(folder).add_region(name, domain))


def _report(admin: Admin, written: list[Path]) -> None:
    if admin.json:
        admin.print_json({"written": [str(path) for path in written]})
        return
    for path in written:
        click.echo(f"wrote {path}")
