"""Options that several commands have; of those that set a machine up, as Wishes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from portway_runtime.settings import flag

from portway_server.errors import SetupRefused
from portway_server.plan import Plan
from portway_server.settings_files import SERVER
from portway_server.wishes import CONFIG_DIR, STATE_DIR, Acme, Etcd, Ports, Wishes
from portway_server.writing import File

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path, dir_okay=False)
_DIR = click.Path(path_type=Path, file_okay=False)

config_option = click.option(
    "--config",
    type=FILE,
    default=CONFIG_DIR / SERVER,
    show_default=True,
    help="The file that `init` or `join` wrote.",
)

_PLACE = (
    click.option("--name", default="", help="The node's name, unique in the cluster; by default one is made."),
    click.option(
        "--public-address",
        "addresses",
        multiple=True,
        metavar="ADDRESS",
        help="An address by which the Internet reaches this machine, where a provider maps it; may be repeated. By "
        "default that of each default route.",
    ),
    click.option("--latitude", type=click.FloatRange(-90, 90), help="Where it is; by default GeoIP's answer."),
    click.option("--longitude", type=click.FloatRange(-180, 180), help="The same."),
    click.option(
        "--dns/--no-dns",
        default=True,
        show_default=True,
        help="Whether this node answers DNS queries for the domain.",
    ),
    click.option(
        "--tls-cert",
        "tls_certs",
        type=FILE,
        multiple=True,
        help="A certificate from elsewhere (PEM, with its chain): for *.REGION.DOMAIN, and for DOMAIN where a registry "
        "runs; may be repeated.",
    ),
    click.option("--tls-key", "tls_keys", type=FILE, multiple=True, help="The key of each, in the same order."),
    click.option(
        "--port", default=443, show_default=True, type=click.IntRange(1, 65_535), help="The node's public port."
    ),
    click.option(
        "--registry-port",
        default=7400,
        show_default=True,
        type=click.IntRange(1, 65_535),
        help="The registry's, for clients and operators.",
    ),
    click.option(
        "--mesh-port",
        default=7401,
        show_default=True,
        type=click.IntRange(1, 65_535),
        help="The registry's, for nodes.",
    ),
    click.option("--dns-port", default=53, show_default=True, type=click.IntRange(1, 65_535), help="For DNS."),
    click.option(
        "--config-dir", type=_DIR, default=CONFIG_DIR, show_default=True, help="Where the settings are written."
    ),
    click.option(
        "--state-dir",
        type=_DIR,
        default=STATE_DIR,
        show_default=True,
        help="Below it the programs keep what they keep, each in a folder of its own.",
    ),
    click.option(
        "--same-user",
        is_flag=True,
        help="Run the registry and the relay as the user that runs `up`, in place of users of their own. Whoever "
        "breaks into the relay then reads the registry's keys.",
    ),
    click.option("--overwrite", is_flag=True, help="Write settings anew that are there already."),
)
_REGISTRY = (
    click.option("--email", help="Of the account at the certificate authority."),
    click.option("--etcd", default="", metavar="URL[,URL...]", help="An etcd, in place of the embedded store."),
    click.option("--etcd-ca", type=FILE, help="The CA (PEM) that issued etcd's certificate."),
    click.option("--etcd-cert", type=FILE, help="The client certificate (PEM) for etcd."),
    click.option("--etcd-key", type=FILE, help="Its private key (PEM)."),
    click.option("--etcd-user", help="The user name for etcd."),
    click.option("--etcd-password-file", type=FILE, help="A file with its password."),
    click.option(
        "--acme-directory",
        metavar="URL",
        help="The ACME server, whose terms of service you agree to; by default Let's Encrypt.",
    ),
    click.option("--acme-ca", type=FILE, help="The CA (PEM) of the ACME server itself, if it is no public one."),
    click.option("--acme-eab-key-id", help="External account binding: the key's id."),
    click.option("--acme-eab-key-file", type=FILE, help="External account binding: a file with the key."),
    click.option(
        "--acme-key-file",
        type=FILE,
        help="The key that wraps private keys in the store: the same file at every registry. By default the first one "
        "makes it.",
    ),
)


def place_options(command: F) -> F:
    """The options of what every machine has: a node."""
    return _with(command, _PLACE)


def registry_options(command: F) -> F:
    """The options of a machine that runs a registry."""
    return _with(command, _REGISTRY)


def _with(command: F, options: tuple[Callable[[F], F], ...]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def wishes_of(domain: str, region: str, given: dict[str, Any], *, registry: bool) -> Wishes:
    """The options' values as Wishes. Raises SetupRefused."""
    certs, keys = given["tls_certs"], given["tls_keys"]
    if len(certs) != len(keys):
        raise SetupRefused(
            f"--tls-cert is given {len(certs)} times and --tls-key {len(keys)} times: give each certificate its key, "
            "in the same order"
        )
    _refuse_idle(given, registry=registry)
    acme = Acme(
        given.get("email"),
        given.get("acme_directory"),
        _absolute(given.get("acme_ca")),
        given.get("acme_eab_key_id"),
        _absolute(given.get("acme_eab_key_file")),
        _absolute(given.get("acme_key_file")),
    )
    if registry and not certs and not acme.email:
        raise SetupRefused(
            "--email is missing: certificate authorities want an address to write to. Or give certificates from "
            "elsewhere, with --tls-cert and --tls-key"
        )
    etcd = Etcd(
        given.get("etcd") or "",
        _absolute(given.get("etcd_ca")),
        _absolute(given.get("etcd_cert")),
        _absolute(given.get("etcd_key")),
        given.get("etcd_user"),
        _absolute(given.get("etcd_password_file")),
    )
    return Wishes(
        domain=domain.lower().rstrip("."),
        region=region,
        name=given["name"],
        addresses=tuple(given["addresses"]),
        latitude=given["latitude"],
        longitude=given["longitude"],
        config_dir=given["config_dir"].absolute(),
        state_dir=given["state_dir"].absolute(),
        etcd=etcd,
        acme=acme,
        certificates=tuple((cert.absolute(), key.absolute()) for cert, key in zip(certs, keys, strict=True)),
        dns=given["dns"],
        ports=Ports(given["port"], given["registry_port"], given["mesh_port"], given["dns_port"]),
        separate_users=not given["same_user"],
        registry=registry,
    )


def _refuse_idle(given: dict[str, Any], *, registry: bool) -> None:
    """Raise SetupRefused for options that nothing would come of beside the others."""
    acme, etcd = _given(given, "email", "acme_"), _given(given, "etcd_")
    store = ["--etcd"] if given.get("etcd") else []
    if not registry and (idle := [*acme, *store, *etcd]):
        raise SetupRefused(
            f"{idle[0]} is for a machine that runs a registry: give --registry to run one here, or leave it out"
        )
    if given["tls_certs"] and acme:
        raise SetupRefused(
            f"{acme[0]} is for certificates that the registry obtains, and with --tls-cert it obtains none: leave "
            f"{', '.join(acme)} out to use those from elsewhere, or --tls-cert and --tls-key to have all obtained"
        )
    if etcd and not store:
        raise SetupRefused(f"{etcd[0]} is for an etcd, and none is named: give --etcd URL, or leave it out")


def _given(given: dict[str, Any], *prefixes: str) -> list[str]:
    """The flags of the options that were given and begin so."""
    return sorted(flag(name) for name, value in given.items() if value and name.startswith(prefixes))


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def tell_plan(made: Plan, files: list[File], added: list[str]) -> None:
    """Print what was found and written."""
    wishes = made.wishes
    place = "unknown" if wishes.latitude is None else f"{wishes.latitude:g}, {wishes.longitude:g}"
    click.echo(f"This machine   {wishes.name} in region {wishes.region}, at {', '.join(made.public)}")
    click.echo(f"Position       {place}")
    for number, file in enumerate(files):
        click.echo(f"{'Written' if not number else '':<15}{file.path}")
    for user in added:
        click.echo(f"Made           user {user}")
    for note in made.notes:
        click.echo(f"Note           {note}.")
