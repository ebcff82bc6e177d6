"""The command `portway`: the same tunnels for programs in any language.

`portway forward 8000` prints the address on standard output, one line for programs to read, and keeps the tunnel until
it is told to end. What is going on goes to standard error (live.py). `portway netcheck` says how far the nodes are
(netcheck.py). Nothing that takes time is imported before a registry is to be asked.
"""

import argparse
import math
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType
from typing import Final

from portway.config import CA_VARIABLE, LATENCY, REGISTRY_VARIABLE, STRATEGIES, TOKEN_VARIABLE, resolve
from portway.errors import (
    Attempt,
    AuthError,
    ConfigError,
    Error,
    InvalidError,
    QuotaError,
    TunnelLostError,
    UnreachableError,
)
from portway.forwarding import forward
from portway.tunnel import Tunnel
from portway.version import VERSION

NETCHECK: Final = "netcheck"
USAGE: Final = 2  # argparse's own
OTHERWISE: Final = 1
INTERRUPTED: Final = 130  # as shells have it; a tunnel that is closed when it is told to is no interruption
EXIT_CODES: Final[tuple[tuple[type[Error], int, str], ...]] = (
    (InvalidError, USAGE, "wrong usage: an argument that cannot be used"),
    (ConfigError, 3, "no registry or token was named, or a file cannot be used"),
    (AuthError, 4, "the token is malformed, unknown or revoked"),
    (QuotaError, 5, "the token has as many tunnels as it may have"),
    (UnreachableError, 6, "no registry or no relay node could be reached"),
    (TunnelLostError, 7, "a tunnel was open and is lost for good"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """What to forward: a port of this machine, or of the host that is named."""

    port: int
    host: str | None = None

    def __str__(self) -> str:
        if self.host is None:
            return str(self.port)
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Ended(BaseException):
    """A signal asked us to end. Not an Exception: nothing in between may take it for a failure."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code. Usage errors leave by SystemExit, as argparse has it."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.command is None:
        parser.print_help(sys.stderr)
        return USAGE
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup means it
            signal.signal(number, _end)
    try:
        if asked.command == NETCHECK:
            _netcheck(asked)
        else:
            _forward(asked)
    except _Ended:
        return INTERRUPTED if asked.command == NETCHECK else 0
    except Error as error:
        print(f"portway: {one_line(error)}", file=sys.stderr)
        return exit_code(error)
    return 0


def exit_code(error: Error) -> int:
    """What the command exits with for this error."""
    return next((code for kind, code, _ in EXIT_CODES if isinstance(error, kind)), OTHERWISE)


def one_line(error: Error) -> str:
    """Its message, with the attempts that it lists behind one another."""
    first, *others = (line.strip() for line in str(error).splitlines())
    return f"{first}: {'; '.join(others)}" if others else first


def target(text: str) -> Target:
    """`8000`, `db:5432` or `[::1]:8000`. Raises argparse.ArgumentTypeError."""
    host, separator, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} names no port: write 8000 or host:8000, between 1 and 65535")
    if (separator and not host) or (":" in host and not bracketed):
        raise argparse.ArgumentTypeError(f"{text!r} names no host: write db:5432, or [::1]:5432 for IPv6")
    return Target(int(port), (host[1:-1] if bracketed else host) or None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="portway", description="Put local ports on the Internet.")
    parser.add_argument("--version", action="version", version=f"portway {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    forwarding = commands.add_parser(
        "forward",
        help="open tunnels and keep them open",
        description="Open a tunnel to each target and keep them open until SIGINT or SIGTERM.\n\n"
        "Standard output gets one https:// address for each target, in order, each followed by a tcp:// address\n"
        "with --unencrypted; standard error gets what is going on.",
        epilog="exit codes:\n"
        + "".join(f"  {code}  {text}\n" for code, text in [(0, "closed when told to"), *_documented()]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = forwarding.add_argument
    add("targets", metavar="TARGET", nargs="+", type=target, help="PORT, or HOST:PORT for another host")
    add("--unencrypted", action="store_true", help="a random TCP port without TLS, in addition")
    add("--h2", action="store_true", help="offer HTTP/2 to visitors that speak nothing else, such as gRPC clients")
    add("--host", help="where the targets without a host are; default: this machine")
    _add_settings(forwarding)
    add("--region", help="only relay nodes of this region")
    add(
        "--strategy",
        choices=STRATEGIES,
        default=LATENCY,
        help="latency: the first of the nearest to answer; geoip: the nearest by location; default: latency",
    )
    add("--timeout", metavar="SECONDS", type=float, default=10.0, help="for opening; default: 10")
    add("--json", action="store_true", help="print each tunnel as one line of JSON instead")
    checking = commands.add_parser(
        NETCHECK,
        help="show how far the relay nodes of every region are from here",
        description="Dial the relay nodes of every region, at most 200, once each, and print how far each one is,\n"
        "what the registry expected, where GeoIP puts this machine, and which node a tunnel would be at and why.\n\n"
        "ROUND TRIP is the shortest that the kernel saw; READY AFTER is with TCP's and TLS's handshakes, and decides.\n"
        "A node that was not reached is marked so, with the reason: refused, timed out, wrong certificate, ...",
        epilog="exit codes: 0 when a node was picked, also when others were not reached; 6 when no node that takes\n"
        "clients was; 130 when interrupted; else those of `portway forward`",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_settings(checking)
    checking.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=10.0, help="for all of it; default: 10"
    )
    checking.add_argument("--json", action="store_true", help="print one object of JSON instead")
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--registry", metavar="HOST:PORT", help=f"one or several, with commas; default: {REGISTRY_VARIABLE}")
    add("--token", help=f"default: {TOKEN_VARIABLE}, which other users of this machine cannot see")
    add("--ca", metavar="FILE", help=f"whom to trust for the registry; default: {CA_VARIABLE}, then the system's roots")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _documented() -> list[tuple[int, str]]:
    return [(OTHERWISE, "anything else failed"), *((code, text) for _, code, text in EXIT_CODES)]


def _forward(asked: argparse.Namespace) -> None:
    """Open, print, stay. Raises Error, _Ended."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines about failed handshakes: ours say more
    from portway.progress import Progress

    lost: list[TunnelLostError] = []
    ended = threading.Event()

    def tunnel_lost(error: TunnelLostError) -> None:
        lost.append(error)
        ended.set()

    with ExitStack() as tunnels:
        progress = tunnels.enter_context(Progress(sys.stderr))
        for wanted in asked.targets:
            opening = forward(
                wanted.port,
                unencrypted=asked.unencrypted,
                h2_enabled=asked.h2,
                host=wanted.host or asked.host,
                timeout=asked.timeout,
                registry=asked.registry,
                token=asked.token,
                ca=asked.ca,
                region=asked.region,
                strategy=asked.strategy,
                tunnel_lost=tunnel_lost,
            )
            tunnel = tunnels.enter_context(opening)
            print(_as_json(wanted, tunnel) if asked.json else _as_lines(tunnel), flush=True)
        progress.show_until(ended)
        raise lost[0]


def _netcheck(asked: argparse.Namespace) -> None:
    """Measure and print. Raises Error, _Ended."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    settings = resolve(registry=asked.registry, token=asked.token, ca=asked.ca)
    from portway.engine.engine_thread import running_engine
    from portway.engine.survey import pick
    from portway.netcheck import as_json, as_table

    survey, measured = running_engine().submit(lambda tunnels: tunnels.survey(settings, asked.timeout)).result()
    picked = pick(measured)
    print(as_json(survey, measured, picked) if asked.json else as_table(survey, measured, picked), flush=True)
    if picked is None:
        tried = [
            Attempt(one.node.node.name, str(one.node.node.address), one.problem) for one in measured if one.problem
        ]
        raise UnreachableError("no relay node that takes clients could be reached", tuple(tried))


def _as_lines(tunnel: Tunnel) -> str:
    if not tunnel.unencrypted_host:
        return tunnel.url
    host, port = tunnel.tcp_socket
    return f"{tunnel.url}\ntcp://{host}:{port}"


def _as_json(wanted: Target, tunnel: Tunnel) -> str:
    import json

    fields: dict[str, object] = {"target": str(wanted), "url": tunnel.url, "host": tunnel.host, "port": tunnel.port}
    if tunnel.unencrypted_host:
        fields |= {"unencrypted_host": tunnel.unencrypted_host, "unencrypted_port": tunnel.unencrypted_port}
    return json.dumps(fields)


def _end(number: int, frame: FrameType | None) -> None:
    """Once: what is closed in answer must not be interrupted by a second one."""
    for other in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise _Ended
