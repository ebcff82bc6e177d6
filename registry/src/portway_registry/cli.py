"""The command portway-registry."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Coroutine, Sequence
from typing import Final, NoReturn

from portway_runtime.descriptors import raise_limit
from portway_runtime.errors import RuntimeFault, UsageFault
from portway_runtime.grpc_channels import silence_grpc
from portway_runtime.logs import configure_command
from portway_runtime.printable import printable_lines
from portway_runtime.run import FAILED, UNUSABLE_SETTINGS, ServerParser, run_program, serve
from portway_runtime.settings import add_config_flag, add_flags, with_defaults
from portway_runtime.standard_streams import open_standard_streams
from portway_runtime.version import VERSION

from portway_registry.config import SETTINGS, Config, load
from portway_registry.errors import ConfigError, RegistryError

logger = logging.getLogger(__name__)

_DESCRIPTION = """\
Serve clients, operators and nodes until SIGTERM or SIGINT. Certificates are required, everything else has a default:

    portway-admin pki init --dir pki --domain tunnels.example.com --region fra --registry-host HOST
    portway-registry serve --tls-cert pki/registry.crt --tls-key pki/registry.key"""
_EPILOG = f"""\
Every flag is also an environment variable ({SETTINGS.variable("listen")} for --listen) and a key of the TOML file (with
underscores for dashes). Flags override variables, variables override the file. SIGTERM and SIGINT stop the registry in
order, SIGHUP reads the certificates again. Exit codes: 0 stopped by a signal, 1 a part failed, 2 settings that cannot
be used."""
_EXPORT: Final = """\
Write everything that the store has for good to a new file: tokens, keys, CAs, blocks of ports, orders, audit. An
embedded store is free for this while its registry is stopped, which interrupts no tunnel:

    portway-registry export --store embedded:/var/lib/portway/registry.db cluster.backup

The file has the private keys of the cluster."""
_IMPORT: Final = """\
Fill a store from a file that `export` has written, while no registry uses it. Nodes and clients go on with their
tunnels, and are announced again when a registry starts:

    portway-registry import --store etcd:https://10.0.0.1:2379 cluster.backup"""
# What names a store and how it is opened.
_STORE_SETTINGS: Final = ("store", "etcd_ca", "etcd_cert", "etcd_key", "etcd_user", "etcd_password_file")
_OTHER_EPILOG: Final = """\
The store is also read from the environment and the file, as by `serve`. Exit codes: 0 done, 1 refused or failed, 2
settings that cannot be used."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit."""
    open_standard_streams()
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["export"] or words[:1] == ["import"]:
        sys.exit(_move(words))
    run_program(
        "portway-registry",
        lambda: _load(_parser().parse_args(words)),
        _serve,
        faults=RegistryError,
        form=SETTINGS.log_format(words, os.environ),
    )


def _load(parsed: argparse.Namespace) -> Config:
    given = {key: value for key in SETTINGS.by_key if (value := getattr(parsed, key, None)) is not None}
    return load(given, os.environ, parsed.config)


def _move(words: Sequence[str]) -> int:
    """Export or import; returns the exit code."""
    silence_grpc()
    configure_command("portway-registry")
    try:
        parsed = _parser().parse_args(words)
        asyncio.run(_moving(_load(parsed), parsed))
    except UsageFault as error:
        print(printable_lines(error.with_usage), file=sys.stderr)
        return UNUSABLE_SETTINGS
    except (RegistryError, RuntimeFault) as error:
        print(printable_lines(f"portway-registry: {error}"), file=sys.stderr)
        return UNUSABLE_SETTINGS if isinstance(error, ConfigError) else FAILED
    return 0


def _moving(config: Config, parsed: argparse.Namespace) -> Coroutine[object, object, None]:
    from portway_registry.backup.command import export, import_

    if parsed.command == "export":
        return export(config, parsed.file)
    return import_(config, parsed.file, replace=parsed.replace)


def _parser() -> argparse.ArgumentParser:
    parser = ServerParser(prog="portway-registry", description="The registry of a Portway cluster.")
    parser.add_argument("--version", action="version", version=f"portway-registry {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    serve = commands.add_parser(
        "serve",
        help="serve clients, operators and nodes until SIGTERM or SIGINT",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_flag(serve)
    add_flags(serve, with_defaults(SETTINGS.by_key.values(), Config))
    for name, what, description in (
        ("export", "write the store to a file: a back-up, or to move it", _EXPORT),
        ("import", "fill a store from such a file", _IMPORT),
    ):
        command = commands.add_parser(
            name,
            help=what,
            description=description,
            epilog=_OTHER_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("file", metavar="FILE", help="the file; - is standard " + _stream_of(name))
        if name == "import":
            command.add_argument(
                "--replace",
                metavar="CLUSTER",
                default="",
                help="delete the cluster of this id from the store first: all its tokens, keys and audit, for good",
            )
        add_config_flag(command)
        add_flags(command, with_defaults([SETTINGS.by_key[key] for key in _STORE_SETTINGS], Config))
    return parser


def _stream_of(command: str) -> str:
    return "output" if command == "export" else "input"


async def _serve(config: Config) -> int:
    raise_limit()
    silence_grpc()
    from portway_registry.server import Registry

    def addresses(registry: Registry) -> dict[str, str | None]:
        return {
            "listen": registry.address,
            "mesh_listen": registry.mesh_address,
            "admin_listen": registry.admin_address,
            "metrics_listen": registry.metrics_address,
        }

    code = await serve(
        lambda on_failure: Registry(config, on_failure=on_failure),
        ready_file=config.ready_file,
        addresses=addresses,
        on_hangup=Registry.reload_certificates,
    )
    logger.info("registry stopped")
    return code
