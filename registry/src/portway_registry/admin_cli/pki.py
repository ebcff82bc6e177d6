"""`portway-admin pki`: the local certificate authority. These commands call no registry."""

from pathlib import Path

import click

from portway_registry.admin_cli.connection import GlobalOptions, pass_options
from portway_registry.admin_cli.output import print_json
from portway_registry.pki.ca_folder import CaFolder, check_names

# The addresses of a registry on this machine.
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")

_folder = click.option(
    "--dir",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of the CA and of the certificates that it has signed.",
)

_domain = click.option("--domain", required=True, help="The domain that follows the region in tunnels' host names.")


@click.group()
def pki() -> None:
    """The local certificate authority.

    Creates the cluster's CA and certificates as files.
    """


@pki.command()
@_folder
@_domain
@click.option("--region", "regions", multiple=True, help="A region that gets a certificate (repeatable).")
@click.option(
    "--node",
    "nodes",
    multiple=True,
    help="A node that gets a certificate (repeatable); of the region, if exactly one is named.",
)
@click.option(
    "--registry-host",
    "hosts",
    multiple=True,
    help="A host name or address of the registry (repeatable); by default this machine's own addresses.",
)
@pass_options
def init(
    options: GlobalOptions,
    folder: Path,
    domain: str,
    regions: tuple[str, ...],
    nodes: tuple[str, ...],
    hosts: tuple[str, ...],
) -> None:
    """Create a CA, the registry's certificate, and one for each region and node named.

    An existing CA is never overwritten.
    """
    check_names(domain, regions, nodes, hosts)
    authority = CaFolder.create(folder)
    written = [folder / "ca.crt", folder / "ca.key"]
    written += authority.add_registry(hosts or _LOCAL_HOSTS)
    for name in nodes:
        # With several regions the node's own is unknown.
        written += authority.add_node(name, regions[0] if len(regions) == 1 else "")
    for region in regions:
        written += authority.add_region(region, domain)
    _print_written(options, written)


@pki.command()
@_folder
@click.option("--region", default="", help="The region of the node; by default it may be in any.")
@click.argument("name")
@pass_options
def node(options: GlobalOptions, folder: Path, region: str, name: str) -> None:
    """Add a node's certificate to an existing folder. A node that joins by invitation does not need this."""
    _print_written(options, CaFolder.open(folder).add_node(name, region))


@pki.command()
@_folder
@_domain
@click.argument("name")
@pass_options
def region(options: GlobalOptions, folder: Path, domain: str, name: str) -> None:
    """Add a region's certificate to an existing folder."""
    _print_written(options, CaFolder.open(folder).add_region(name, domain))


def _print_written(options: GlobalOptions, written: list[Path]) -> None:
    if options.json:
        print_json({"written": [str(path) for path in written]})
        return
    for path in written:
        click.echo(f"wrote {path}")
