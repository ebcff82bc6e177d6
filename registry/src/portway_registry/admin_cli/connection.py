"""What every portway-admin command is given: how to reach the registry, and how to print.

Here: the channel, the exit codes, one table gRPC status → exit code. Not here: the commands.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import cast

import click
import grpc
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_runtime.endpoints import parse_endpoint

# A registry that does not answer within this is not reachable for someone who waits at a prompt.
CALL_TIMEOUT = 10.0
_CONNECT_TIMEOUT = 3.0
# A watch may be silent for long: without pings a registry that froze would look like one with no news.
_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
)


class ExitCode(IntEnum):
    OK = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_AUTHORISED = 4
    INTERRUPTED = 130  # 128 + SIGINT, as shells count


_EXIT_CODES = {
    grpc.StatusCode.UNAVAILABLE: ExitCode.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ExitCode.UNREACHABLE,
    grpc.StatusCode.UNAUTHENTICATED: ExitCode.NOT_AUTHORISED,
    grpc.StatusCode.PERMISSION_DENIED: ExitCode.NOT_AUTHORISED,
}


class Failure(Exception):
    """Ends the command with a message on stderr and an exit code that tells."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Admin:
    """The options in front of the command."""

    registry: str | None
    token: str | None
    token_file: Path | None
    ca: Path | None
    json: bool

    def print_json(self, value: object) -> None:
        """One line of JSON."""
        click.echo(json.dumps(value, sort_keys=True, ensure_ascii=False))

    def print_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
        """A table for people; `empty` is said when there is no row."""
        if not rows:
            click.echo(empty)
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(column, no_wrap=not sys.stdout.isatty())
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        # In a pipe nothing is cut to a terminal's width.
        Console(width=None if sys.stdout.isatty() else 500).print(table)

    def print_fields(self, fields: Mapping[str, str]) -> None:
        """One thing for people: a line for each field."""
        width = max(map(len, fields)) + 2
        for name, value in fields.items():
            click.echo(f"{name:<{width}}{printable(value)}")

    @contextmanager
    def calls(self) -> Iterator["Calls"]:
        """The registry's Admin service; what it refuses becomes a Failure with its exit code."""
        address, channel = self._channel()
        with channel:
            try:
                yield Calls(address, AdminStub(channel), (("authorization", f"Bearer {self._token()}"),))
            except grpc.RpcError as error:
                # Every error that a stub raises is a Call too; the base class alone says nothing.
                status = cast("grpc.Call", error)
                code = _EXIT_CODES.get(status.code(), ExitCode.REFUSED)
                message = status.details() or status.code().name
                if code is ExitCode.UNREACHABLE:
                    message = f"cannot reach the registry at {address}: {message}{_advice(message, self.ca)}"
                raise Failure(message, code) from error

    def _channel(self) -> tuple[str, grpc.Channel]:
        """The first registry of the list that answers, as for clients; the last without trying."""
        addresses = _addresses(self.registry)
        credentials = grpc.ssl_channel_credentials(_read(self.ca, "CA file") if self.ca else None)
        for address in addresses[:-1]:
            channel = grpc.secure_channel(address, credentials, _OPTIONS)
            try:
                grpc.channel_ready_future(channel).result(timeout=_CONNECT_TIMEOUT)
            except grpc.FutureTimeoutError:
                channel.close()
            else:
                return address, channel
        return addresses[-1], grpc.secure_channel(addresses[-1], credentials, _OPTIONS)

    def _token(self) -> str:
        token = _read(self.token_file, "token file").decode("utf-8", "replace") if self.token_file else self.token
        token = (token or "").strip()
        if not token:
            raise click.UsageError(
                "no admin token: give --token-file FILE or set PORTWAY_ADMIN_TOKEN (the registry writes the "
                "first one to its --admin-token-file)"
            )
        if not token.isascii() or not token.isprintable():
            raise click.UsageError("this is no API token: one has the form pw_<id>_<secret>")
        return token


@dataclass(frozen=True, slots=True)
class Calls:
    """The stub, with what each call needs."""

    address: str
    stub: AdminStub
    metadata: tuple[tuple[str, str], ...]
    timeout: float = CALL_TIMEOUT


def _addresses(text: str | None) -> list[str]:
    """HOST:PORT, several with commas. Raises UsageError."""
    addresses = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not addresses:
        raise click.UsageError("no registry named: give --registry HOST:PORT or set PORTWAY_REGISTRY")
    for address in addresses:
        try:
            parse_endpoint(address)
        except ValueError as error:
            raise click.UsageError(f"{address!r} is no registry's address: {error}") from None
    return addresses


def _advice(message: str, ca: Path | None) -> str:
    if "CERTIFICATE_VERIFY_FAILED" not in message:
        return ""
    trusted = f"{ca}" if ca else "the system's CAs (name the cluster's with --ca or PORTWAY_CA)"
    return f"; the registry's certificate is not from {trusted}, or not for this name"


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.UsageError(f"cannot read the {what} {path}: {error.strerror}") from error


def printable(text: str) -> str:
    """What others chose, without what would steer the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(ctx: click.Context, parameter: click.Parameter, text: str) -> int:
    """An option's time as people write it: 90s, 30m, 1h, 2d."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.isascii() or not number.isdecimal() or int(number) == 0:
        raise click.BadParameter(f"{text!r}: use a number and s, m, h or d, such as 30m")
    return int(number) * _UNITS[unit]


def _json_too(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    admin = ctx.find_object(Admin)
    if given and admin is not None:
        ctx.obj = replace(admin, json=True)


pass_admin = click.make_pass_decorator(Admin)
# `--json` behind a command is what people type; programs give it in front.
json_option = click.option(
    "--json", is_flag=True, expose_value=False, is_eager=True, callback=_json_too, help="JSON instead of a table."
)
