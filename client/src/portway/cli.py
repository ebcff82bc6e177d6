"""The command `portway`: the same tunnels for programs in any language.

`portway forward 8000` prints the address on standard output, one line for programs to read, and keeps the tunnel open
until a signal ends it; progress goes to standard error (progress.py). `portway netcheck` prints how far away the nodes
are (netcheck.py). The engine is imported only when a registry is about to be asked. Not here: options and their help
(arguments.py).
"""

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import NoReturn

from portway_runtime.grpc_channels import silence_grpc
from portway_runtime.printable import printable_json, printable_line
from portway_runtime.standard_streams import drop_standard_output, open_standard_streams

from portway.arguments import NETCHECK, Target, command_parser, with_version
from portway.config import KEY_VARIABLE, resolve, resolve_key
from portway.errors import Attempt, Error, InvalidError, QuotaError, TunnelLostError, UnreachableError
from portway.exit_codes import INTERRUPTED, READER_GONE, USAGE, exit_code
from portway.forwarding import Forwarding, forward
from portway.tunnel import Tunnel


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
    parser = command_parser()
    options = parser.parse_args(with_version(sys.argv[1:] if arguments is None else arguments))
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


def one_line(error: Error) -> str:
    """The error's message on one line; the attempts that it lists are separated by semicolons."""
    first, *others = (printable_line(line.strip()) for line in str(error).splitlines())
    return f"{first}: {'; '.join(others)}" if others else first


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
        proxy_protocol=options.proxy_protocol,
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
