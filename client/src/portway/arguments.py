"""What the command `portway` is given: its commands, their options, and targets.

Here: the words on the command line and their help. Not here: what is done (cli.py), defaults from the environment
(config.py).
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Final

from portway_runtime.endpoints import Endpoint, parse_endpoint, parse_port
from portway_runtime.version import VERSION

from portway.config import (
    CA_VARIABLE,
    KEY_VARIABLE,
    LATENCY,
    NEVER,
    PROXY_PROTOCOL_VARIABLE,
    PROXY_PROTOCOLS,
    PROXY_VARIABLE,
    REGISTRY_VARIABLE,
    RETURN_TIMES,
    RETURNS_VARIABLE,
    STRATEGIES,
    TOKEN_VARIABLE,
)
from portway.exit_codes import documented

NETCHECK: Final = "netcheck"
_PROXY_PROTOCOL: Final = "--proxy-protocol"


@dataclass(frozen=True, slots=True)
class Target:
    """What to forward: a port of this machine (`host` None) or of another."""

    port: int
    host: str | None = None

    def __str__(self) -> str:
        return str(self.port) if self.host is None else str(Endpoint(self.host, self.port))


def target(text: str) -> Target:
    """Read `8000`, `db:5432` or `[::1]:8000`. Raises argparse.ArgumentTypeError."""
    try:
        port = parse_port(text.rpartition(":")[2])
    except ValueError:
        port = 0
    if not port:
        raise argparse.ArgumentTypeError(f"{text!r} names no port: write 8000 or host:8000, between 1 and 65535")
    if ":" not in text:
        return Target(port)
    try:
        return Target(port, parse_endpoint(text).host)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} names no host: write db:5432, or [::1]:5432 for IPv6") from None


def command_parser() -> argparse.ArgumentParser:
    """The parser of both commands, for `with_version(...)`. `command` is None when none is named."""
    parser = argparse.ArgumentParser(prog="portway", description="Put local ports on the Internet.")
    parser.add_argument("--version", action="version", version=f"portway {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    forwarding = commands.add_parser(
        "forward",
        help="open tunnels and keep them open",
        description="Open a tunnel to each target and keep them open until SIGINT or SIGTERM.\n\n"
        "Standard output gets one https:// address for each target, in order, each followed by a tcp:// address\n"
        "with --unencrypted. Standard error gets progress and warnings.",
        epilog="exit codes:\n" + "".join(f"  {code}  {text}\n" for code, text in documented()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = forwarding.add_argument
    add("targets", metavar="TARGET", nargs="+", type=target, help="PORT, or HOST:PORT for another host")
    add("--unencrypted", action="store_true", help="also open a random TCP port without TLS")
    add("--h2", action="store_true", help="offer HTTP/2 to visitors that offer only HTTP/2, such as gRPC clients")
    add("--host", help="the host of targets that name none; default: this machine")
    _add_settings(forwarding)
    add(
        "--key",
        metavar="FILE",
        help="the file with the tunnel's key, for one target: the same URL whenever it is used; made at the first use. "
        f"Keep it secret: whoever has the file has the URL. '' is a random URL; default: {KEY_VARIABLE}",
    )
    add(
        _PROXY_PROTOCOL,
        choices=PROXY_PROTOCOLS,
        metavar="v1|v2",
        help="begin each connection to a target with a PROXY header that says whose it is; the target has to expect "
        f"it. {_PROXY_PROTOCOL} alone is v2, {_PROXY_PROTOCOL}=v1 the older form; default: {PROXY_PROTOCOL_VARIABLE}",
    )
    add("--region", help="only relay nodes of this region")
    add(
        "--strategy",
        choices=STRATEGIES,
        default=LATENCY,
        help="latency: the first of the nearest to answer; geoip: the nearest by location; default: latency",
    )
    _add_returns(add)
    add(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=10.0,
        help="seconds to open each tunnel in, trying again while nothing can be reached; default: 10",
    )
    add("--json", action="store_true", help="print each tunnel as one line of JSON instead")
    checking = commands.add_parser(
        NETCHECK,
        help="show how far the relay nodes of every region are from here",
        description="Dial the relay nodes of every region once, at most 200, and print how far away each one is, what\n"
        "the registry expected, where GeoIP locates this machine, which node a tunnel would use and why, and which it\n"
        "would go to later, if one is clearly nearer and --returns lets it.\n\n"
        "ROUND TRIP is the shortest that the kernel measured; through a proxy, the time of the TLS handshake. READY\n"
        "AFTER includes the TCP and TLS handshakes, and decides. A node that was not reached is listed with\n"
        "the reason: refused, timed out, wrong certificate, ...",
        epilog="exit codes: 0 when a node was picked, also when others were not reached; 6 when no node that takes\n"
        "clients was reached; 130 when interrupted; otherwise those of `portway forward`",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_settings(checking)
    _add_returns(checking.add_argument)
    checking.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=10.0, help="seconds for everything; default: 10"
    )
    checking.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser


def with_version(arguments: Sequence[str]) -> list[str]:
    """`--proxy-protocol` alone is version 2. argparse would take the target that follows for the option's value."""
    default = f"{_PROXY_PROTOCOL}={PROXY_PROTOCOLS[-1]}"
    return [default if argument == _PROXY_PROTOCOL else argument for argument in arguments]


def _add_settings(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--registry",
        metavar="HOST[:PORT]",
        help=f"one or several, separated by commas; port 443 if none is named; default: {REGISTRY_VARIABLE}",
    )
    add("--token", help=f"the API token; default: {TOKEN_VARIABLE}, which other users of this machine cannot see")
    trust = f"PEM file with the CA of the registry's certificate; default: {CA_VARIABLE}, then the system's roots"
    add("--ca", metavar="FILE", help=trust)
    add(
        "--proxy",
        metavar="URL",
        help="the HTTP proxy through which registries and nodes are reached, as http://HOST:PORT; 'direct' is none; "
        f"default: {PROXY_VARIABLE}, which hides a password in it from other users, then https_proxy and no_proxy",
    )


def _add_returns(add: Callable[..., object]) -> None:
    add(
        "--returns",
        metavar="TIMES",
        help=f"when to go to a node that is clearly nearer: {NEVER}, or seconds by name; default: {RETURNS_VARIABLE}, "
        f"then {_documented_times()}",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _documented_times() -> str:
    return ",".join(f"{one.name}={getattr(RETURN_TIMES, one.name):g}" for one in fields(RETURN_TIMES))
