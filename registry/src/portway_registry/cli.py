"""The command portway-registry."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from portway_runtime.descriptors import raise_limit
from portway_runtime.grpc_channels import silence_grpc
from portway_runtime.run import ServerParser, run_program, serve
from portway_runtime.settings import add_config_flag, add_flags, with_defaults
from portway_runtime.standard_streams import open_standard_streams
from portway_runtime.version import VERSION

from portway_registry.config import SETTINGS, Config, load
from portway_registry.errors import RegistryError

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


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit."""
    open_standard_streams()
    words = sys.argv[1:] if arguments is None else arguments
    run_program(
        "portway-registry",
        lambda: _load(words),
        _serve,
        faults=RegistryError,
        form=SETTINGS.log_format(words, os.environ),
    )


def _load(words: Sequence[str]) -> Config:
    parsed = _parser().parse_args(words)
    given = {key: value for key in SETTINGS.by_key if (value := getattr(parsed, key)) is not None}
    return load(given, os.environ, parsed.config)


def _parser() -> argparse.ArgumentParser:
    parser = ServerParser(prog="portway-registry", description="The registry of a Portway cluster.")
    parser.add_argument("--version", action="version", version=f"portway-registry {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve clients, operators and nodes until SIGTERM or SIGINT",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_flag(serve)
    add_flags(serve, with_defaults(SETTINGS.by_key.values(), Config))
    return parser


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
