"""The command portway-relay."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from portway_runtime.descriptors import raise_limit
from portway_runtime.endpoints import Endpoint
from portway_runtime.grpc_channels import silence_grpc
from portway_runtime.run import ServerParser, run_program, serve
from portway_runtime.standard_streams import open_standard_streams

from portway_relay import settings
from portway_relay.config import NodeConfig
from portway_relay.errors import ConfigError, NodeRemoved, RelayError
from portway_relay.version import VERSION

logger = logging.getLogger(__name__)

REMOVED: Final = 3  # exit code: the cluster admits this node no more

_EPILOG = f"""\
Every flag is also a variable ({settings.PREFIX}LISTEN for --listen) and a key of the TOML file (underscores for
dashes). Flags override variables, variables override the file. SIGTERM and SIGINT stop the node in order, SIGHUP
reads the certificates again. Exit codes: 0 stopped by a signal, 1 a part failed, 2 settings that cannot be used, 3 an
operator removed the node from the cluster: do not start it again before it was invited anew."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit."""
    open_standard_streams()
    words = sys.argv[1:] if arguments is None else arguments
    run_program(
        "portway-relay",
        lambda: settings.load(vars(_parser().parse_args(words)), os.environ),
        _serve,
        faults=RelayError,
        form=settings.log_format(words, os.environ),
    )


def _parser() -> argparse.ArgumentParser:
    parser = ServerParser(prog="portway-relay", description="A relay node of a Portway mesh.")
    parser.add_argument("--version", action="version", version=f"portway-relay {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve clients and visitors until SIGTERM or SIGINT",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    settings.add_flags(serve)
    return parser


async def _serve(config: NodeConfig) -> int:
    raise_limit()
    silence_grpc()
    from portway_relay.ingress.group_check import fault
    from portway_relay.membership.joining import ensure_certificate
    from portway_relay.node import Node

    if reason := fault():
        raise ConfigError(reason)
    await ensure_certificate(config)
    code = await serve(
        lambda on_failure: Node(config, on_failure=on_failure),
        ready_file=config.ready_file,
        addresses=lambda node: {
            "listen": str(node.address),
            "http_listen": _text(node.http_address),
            "admin_listen": _text(node.admin_address),
            "dns_listen": ", ".join(map(str, node.dns_addresses)) or None,
        },
        on_hangup=Node.reload_certificates,
        exit_codes={NodeRemoved: REMOVED},
    )
    logger.info("node stopped")
    return code


def _text(address: Endpoint | None) -> str | None:
    return None if address is None else str(address)
