"""The command `portway`: the same tunnels for programs in any language.

`portway forward 8000` prints the address on standard output, one line for programs to read, and keeps the tunnel open
until a signal ends it; progress goes to standard error (progress.py). `portway netcheck` prints how far away the nodes
are (netcheck.py). The engine is imported only when a registry is about to be asked.
"""

import argparse
import math
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from types import FrameType
from typing import Final, NoReturn

from portway_runtime.endpoints import Endpoint, parse_endpoint, parse_port
from portway_runtime.grpc_channels import silence_grpc
from portway_runtime.printable import printable_json, printable_line
from portway_runtime.standard_streams import drop_standard_output, open_standard_streams

from portway.config import (
    CA_VARIABLE,
    KEY_VARIABLE,
    LATENCY,
    NEVER,
    PROXY_VARIABLE,
    REGISTRY_VARIABLE,
    RETURN_TIMES,
    RETURNS_VARIABLE,
    STRATEGIES,
    TOKEN_VARIABLE,
    resolve,
    resolve_key,
)
from portway.errors import (
    Attempt,
    AuthError,
    ClockError,
    ConfigError,
    Error,
    InvalidError,
    QuotaError,
    TunnelLostError,
    UnreachableError,
)
from portway.forwarding import Forwarding, forward
from portway.tunnel import Tunnel
from portway.version import VERSION

NETCHECK: Final = "netcheck"
USAGE: Final = 2  # argparse's own
OTHER_ERROR: Final = 1
READER_GONE: Final = 141  # 128 + SIGPIPE, as shells have it for a program that the signal ends
INTERRUPTED: Final = 130  # as shells have it; for `forward` a signal is the normal end, and the code is 0
EXIT_CODES: Final[tuple[tuple[type[Error], int, str], ...]] = (
    (InvalidError, USAGE, "wrong usage: an argument that cannot be used"),
    (ConfigError, 3, "no registry or no token is set, or a file cannot be used"),
    (AuthError, 4, "the token is malformed, unknown or revoked"),
    (QuotaError, 5, "the tenant or the token has as many tunnels as its quota allows, or the token asks too often"),
    (UnreachableError, 6, "no registry or no relay node could be reached"),
    (TunnelLostError, 7, "an open tunnel was lost for good"),
    (ClockError, 8, "the clocks of registries and relay nodes are too far apart: their operator has to set them right"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """What to forward: a port of this machine (`host` None) or of another."""

    port: int
    host: str | None = None

    def __str__(self) -> str:
        return str(self.port) if self.host is None else str(Endpoint(self.host, self.port))


class _Ended(BaseException):
    """The command ends, and there is nothing more to say: by a signal, or because tunnels were refused or lost.

    Not an Exception, so that nothing in between takes it for a failure.
    """

    def __init__(self, code: int = 0) -> None:
        """`code` is the exit code of `forward`."""
        self.code = code


class _ReaderGone(BaseException):
    """Whoever read standard output has closed it (`portway forward 8000 9000 | head -1`)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. Usage errors leave by SystemExit, as argparse has it."""
    open_standard_streams()
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return USAGE
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # under nohup it stays ignored
            signal.signal(number, _end)
    try:
        if options.command == NETCHECK:
            _netcheck(options)
        else:
            _forward(options)
    except _Ended as ended:
        return INTERRUPTED if options.command == NETCHECK else ended.code
    except _ReaderGone:
        return READER_GONE
    except Error as error:
        print(f"portway: {one_line(error)}", file=sys.stderr)
        return exit_code(error)
    return 0


def exit_code(error: Error) -> int:
    """The exit code for this error."""
    return next((code for kind, code, _ in EXIT_CODES if isinstance(error, kind)), OTHER_ERROR)


def one_line(error: Error) -> str:
    """The error's message on one line; the attempts that it lists are separated by semicolons."""
    first, *others = (printable_line(line.strip()) for line in str(error).splitlines())
    return f"{first}: {'; '.join(others)}" if others else first


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="portway", description="Put local ports on the Internet.")
    parser.add_argument("--version", action="version", version=f"portway {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    forwarding = commands.add_parser(
        "forward",
        help="open tunnels and keep them open",
        description="Open a tunnel to each target and keep them open until SIGINT or SIGTERM.\n\n"
        "Standard output gets one https:// address for each target, in order, each followed by a tcp:// address\n"
        "with --unencrypted. Standard error gets progress and warnings.",
        epilog="exit codes:\n" + "".join(f"  {code}  {text}\n" for code, text in _documented_codes()),
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


def _documented_codes() -> list[tuple[int, str]]:
    return [
        (0, "a signal ended the command, and no tunnel had been refused or lost"),
        (OTHER_ERROR, "anything else failed"),
        *((code, text) for _, code, text in EXIT_CODES),
        (READER_GONE, "standard output was closed by its reader before everything was printed"),
    ]


def _print(text: str) -> None:
    """Print to standard output at once. Raises _ReaderGone when nobody reads it, Error when it cannot be written."""
    try:
        print(text, flush=True)
    except OSError as error:
        drop_standard_output()
        if isinstance(error, BrokenPipeError):
            raise _ReaderGone from None
        raise Error(f"standard output cannot be written: {error.strerror}") from None


def _forward(options: argparse.Namespace) -> NoReturn:
    """Open the tunnels, print their addresses, and wait until one is lost.

    One that the quota does not allow beside the others ends no other: only the last one ends the command. Raises Error,
    _ReaderGone, and _Ended once tunnels were open or refused: each refusal and each loss is printed when it happens.
    """
    if len(options.targets) > 1 and resolve_key(options.key):
        named = KEY_VARIABLE if options.key is None else "--key"
        raise InvalidError(
            f"{named} names one tunnel's file: run portway forward once for each target, each with a file of its own, "
            "or use --key '' for random URLs"
        )
    silence_grpc()
    from portway.progress import Progress

    opened = 0
    refused: list[QuotaError] = []
    lost: list[TunnelLostError] = []
    changed = threading.Event()

    with ExitStack() as tunnels:
        progress = tunnels.enter_context(Progress(sys.stderr))

        def tunnel_lost(error: TunnelLostError) -> None:
            lost.append(error)
            progress.line(one_line(error))
            changed.set()

        try:
            for one in options.targets:
                try:
                    tunnel = tunnels.enter_context(_forwarding(options, one, tunnel_lost))
                except QuotaError as error:
                    refused.append(error)
                    progress.line(f"{one} is not forwarded: {one_line(error)}")
                    if len(lost) == opened:
                        break
                else:
                    opened += 1
                    _print(_as_json(one, tunnel) if options.json else _as_lines(tunnel))
            while len(lost) < opened and all(isinstance(loss.reason, QuotaError) for loss in lost):
                progress.show_until(changed)
                changed.clear()
        except _Ended:
            pass  # a signal
        raise _Ended(next(map(exit_code, (*lost, *refused)), 0))


def _forwarding(options: argparse.Namespace, of: Target, tunnel_lost: Callable[[TunnelLostError], None]) -> Forwarding:
    return forward(
        of.port,
        unencrypted=options.unencrypted,
        h2_enabled=options.h2,
        host=of.host or options.host,
        timeout=options.timeout,
        registry=options.registry,
        token=options.token,
        ca=options.ca,
        region=options.region,
        strategy=options.strategy,
        tunnel_lost=tunnel_lost,
        key=options.key,
        returns=options.returns,
        proxy=options.proxy,
        process=False,  # the command is a process of its own already
    )


def _netcheck(options: argparse.Namespace) -> None:
    """Measure and print. Raises Error, _Ended, _ReaderGone."""
    silence_grpc()
    from portway_runtime.logs import configure_command

    configure_command("portway")
    settings = resolve(
        registry=options.registry, token=options.token, ca=options.ca, proxy=options.proxy, returns=options.returns
    )
    from portway.engine.engine_thread import running_engine
    from portway.engine.grpc_registries import GrpcRegistries
    from portway.engine.survey import pick, pick_later, take_survey
    from portway.netcheck import as_json, as_table

    registries = GrpcRegistries(settings)
    taking = running_engine().submit(lambda engine: take_survey(engine.carrier, registries, options.timeout))
    survey, measured = taking.result()
    picked = pick(measured)
    later = None if picked is None else pick_later(measured, picked, settings.returns)
    shown = as_json if options.json else as_table
    _print(shown(survey, measured, picked, later))
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


def _as_json(of: Target, tunnel: Tunnel) -> str:
    fields: dict[str, object] = {"target": str(of), "url": tunnel.url, "host": tunnel.host, "port": tunnel.port}
    if tunnel.unencrypted_host:
        fields |= {"unencrypted_host": tunnel.unencrypted_host, "unencrypted_port": tunnel.unencrypted_port}
    return printable_json(fields)


def _end(number: int, frame: FrameType | None) -> None:
    """Handle the first signal only: a second one must not interrupt the closing of the tunnels."""
    for other in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise _Ended
