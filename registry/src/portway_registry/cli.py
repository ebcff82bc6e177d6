"""The command portway-registry."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from portway_runtime import logs
from portway_runtime.errors import RuntimeFault
from portway_runtime.run import OnFailure, serve

from portway_registry.config import Config, flag, load, settings, variable
from portway_registry.errors import RegistryError

logger = logging.getLogger(__name__)

_DESCRIPTION = """\
Serve clients, operators and nodes until SIGTERM or SIGINT. Certificates are needed, the rest has defaults:

    portway-admin pki init --dir pki --domain tunnels.example.com --region fra --registry-host HOST
    portway-registry serve --tls-cert pki/registry.crt --tls-key pki/registry.key"""
_EPILOG = f"""\
Every flag is also a variable ({variable("listen")} for --listen) and a key of the TOML file (underscores for dashes).
Flags beat variables, variables beat the file. Exit codes: 0 stopped when asked to, 1 failed, 2 settings that cannot
be used."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit."""
    parsed = _parser().parse_args(arguments)
    given = {name: value for name in settings() if (value := getattr(parsed, name)) is not None}
    try:
        config = load(given, os.environ, parsed.config)
        logs.configure(form=config.log_format, level=config.log_level)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            sys.exit(runner.run(_serve(config)))
    except (RegistryError, RuntimeFault) as error:
        print(f"portway-registry: {error}", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="portway-registry", description="The registry of a Portway cluster.")
    parser.add_argument("--version", action="version", version=f"portway-registry {version('portway-registry')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve clients, operators and nodes until SIGTERM or SIGINT",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument("--config", type=Path, metavar="FILE", help="a TOML file with settings")
    defaults = Config()
    for name, setting in settings().items():
        default = getattr(defaults, name)
        says = setting.help if default is None else f"{setting.help} (default {default})"
        serve.add_argument(flag(name), dest=name, metavar=setting.metavar, help=says.replace("%", "%%"))
    return parser


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed; the standard loop serves as well, with some more CPU."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(config: Config) -> int:
    # Otherwise gRPC's core writes lines of its own to stderr for each handshake that a stranger breaks off.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from portway_registry.server import Registry

    registry: Registry

    def make(on_failure: OnFailure) -> Registry:
        nonlocal registry
        registry = Registry(config, on_failure=on_failure)
        return registry

    code = await serve(
        make,
        ready_file=config.ready_file,
        addresses=lambda: {
            "listen": registry.address,
            "mesh_listen": registry.mesh_address,
            "metrics_listen": registry.metrics_address,
        },
    )
    logger.info("registry stopped")
    return code
