"""How portway-admin reaches the registry: the global options, the calls, and what becomes of one that fails.

Here: the options in front of the command, the channel, the exit codes and the one table gRPC status → exit code. Not
here: printing (output.py), the commands.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Final, Protocol, TypeVar, cast

import click
import grpc
from portway_proto.v1.admin_pb2 import GetNodeRequest
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_runtime.endpoints import Endpoint, parse_endpoint, parse_registry
from portway_runtime.errors import CertificateError, NoThread, ProxyFailed, SettingsError
from portway_runtime.grpc_channels import (
    KEEPALIVE,
    NO_PROXY_OF_ITS_OWN,
    STORE_IS_AWAY,
    STORE_IS_FULL,
    CallFault,
    fault_of,
    reason_of,
)
from portway_runtime.grpc_targets import LOOKUP_TIMEOUT, Options, is_address, target_of
from portway_runtime.names import BlockingNames
from portway_runtime.pem_files import read_pem
from portway_runtime.proxies import is_direct, parse_proxy
from portway_runtime.proxy_door import open_door
from portway_runtime.threads import demand_threads
from portway_runtime.trusted_roots import system_roots

# Seconds. A person waits at the prompt.
_CALL_TIMEOUT: Final = 10.0
_ANSWERED_WITHIN: Final = 3.0
# Seconds for which a registry is waited for that refuses the connection, or whose name cannot be resolved: in a script
# that starts a machine both come a little late. A person who has mistyped an address waits as long.
_PATIENCE: Final = 5.0
_PAUSE: Final = 0.2
_OPTIONS: Final = (
    *KEEPALIVE,
    *NO_PROXY_OF_ITS_OWN,
    # gRPC's own pauses between two connections begin with a second otherwise.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 500),
)

Request = TypeVar("Request")
Response = TypeVar("Response")


class _PagedRequest(Protocol):
    page_token: str


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


PagedRequest = TypeVar("PagedRequest", bound=_PagedRequest)
Page = TypeVar("Page", bound=_Page)


class ExitCode(IntEnum):
    OK = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_AUTHORISED = 4
    WARNINGS = 10
    ERRORS = 11
    INTERRUPTED = 130  # 128 + SIGINT, as shells count
    READER_GONE = 141  # 128 + SIGPIPE


_EXIT_CODES: Final = {
    grpc.StatusCode.UNAVAILABLE: ExitCode.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ExitCode.UNREACHABLE,
    grpc.StatusCode.UNAUTHENTICATED: ExitCode.NOT_AUTHORISED,
    grpc.StatusCode.PERMISSION_DENIED: ExitCode.NOT_AUTHORISED,
}


class Failure(Exception):
    """Ends the command with this message on stderr and this exit code."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


class AdminCalls:
    """Calls of the Admin service of the registry at `address`, with the caller's token. A connection that is refused is
    tried again while there is patience."""

    def __init__(self, address: str, channel: grpc.Channel, token: str, patience: "_Patience") -> None:
        self.address = address
        self.stub = AdminStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._patience = patience

    def call(self, method: "grpc.UnaryUnaryMultiCallable[Request, Response]", request: Request) -> Response:
        """The answer of a method of `stub`. Raises grpc.RpcError, after _CALL_TIMEOUT at the latest once connected."""
        while True:
            try:
                return method(request, metadata=self._metadata, timeout=_CALL_TIMEOUT)
            except grpc.RpcError as error:
                if not (_is_refused(error) and self._patience.waited()):
                    raise

    def pages(
        self, method: "grpc.UnaryUnaryMultiCallable[PagedRequest, Page]", request: PagedRequest
    ) -> Iterator[Page]:
        """The answers of a method of `stub` that lists, page by page. Iterating raises grpc.RpcError."""
        while True:
            answer = self.call(method, request)
            yield answer
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def stream(
        self, method: "grpc.UnaryStreamMultiCallable[Request, Response]", request: Request
    ) -> Iterator[Response]:
        """The answers of a streaming method of `stub`, without a time limit. Iterating raises grpc.RpcError."""
        while True:
            try:
                yield from method(request, metadata=self._metadata)
                return
            except grpc.RpcError as error:
                if not (_is_refused(error) and self._patience.waited()):
                    raise


class _Patience:
    """The time for which what cannot be reached is tried again."""

    def __init__(self) -> None:
        self._until = time.monotonic() + _PATIENCE

    def waited(self) -> bool:
        """Wait for a moment; False when the time is over."""
        if time.monotonic() >= self._until:
            return False
        time.sleep(_PAUSE)
        return True


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """The options in front of the command."""

    registry: str | None
    token: str | None
    token_file: Path | None
    ca: Path | None
    json: bool
    proxy: str | None = None

    @contextmanager
    def calls(self) -> Iterator[AdminCalls]:
        """Connect. An error that the registry answers, or that it cannot be reached, becomes a Failure."""
        try:
            demand_threads()
        except NoThread as error:
            raise Failure(f"no registry can be asked: {error}", ExitCode.REFUSED) from None
        token, patience = self._read_token(), _Patience()
        with ExitStack() as held:
            address, channel = self._channel(token, patience, held)
            held.enter_context(channel)
            try:
                yield AdminCalls(address, channel, token, patience)
            except grpc.RpcError as error:
                # Every error that a stub raises is a Call too, which its type does not say.
                raise self._failure(address, cast("grpc.Call", error)) from error

    def direct_endpoints(self) -> list[Endpoint]:
        """The registries, where they are reached without a proxy; else none. Raises UsageError."""
        through = bool(self.proxy) and not is_direct(self.proxy or "")
        return [] if through else [parse_endpoint(address) for address in _parse_registries(self.registry)]

    def ca_content(self) -> bytes | None:
        """The file of --ca (PEM), if one is named. Raises UsageError."""
        return _read(self.ca, "CA file", read_pem) if self.ca else None

    def _failure(self, address: str, call: grpc.Call) -> Failure:
        code, details = call.code(), call.details() or ""
        exit_code = _EXIT_CODES.get(code, ExitCode.REFUSED)
        told = tuple(call.trailing_metadata() or ())
        if STORE_IS_FULL in told or STORE_IS_AWAY in told:  # the registry itself was reached
            return Failure(details, ExitCode.REFUSED if STORE_IS_FULL in told else exit_code)
        if exit_code is not ExitCode.UNREACHABLE:
            return Failure(details or code.name, exit_code)
        trusted = str(self.ca) if self.ca else "the system's CAs (name the cluster's with --ca or PORTWAY_CA)"
        words = {
            CallFault.UNTRUSTED: f"the registry's certificate is not from {trusted}",
            CallFault.WRONG_NAME: "the registry's certificate is for another name: give --registry a name in it",
            CallFault.CA_UNUSABLE: f"{self.ca} is not a CA certificate (PEM)",
            CallFault.NOBODY_BEHIND: "a node answered, and no registry behind it does",
            CallFault.UNKNOWN_NAME: "no registry of this name is reached there: give --registry its own name",
            CallFault.NOT_TLS: "it does not speak TLS at this port",
            CallFault.TIMED_OUT: f"it did not answer within {_CALL_TIMEOUT:g} s",
            CallFault.CONNECTION_REFUSED: "the connection was refused",
            CallFault.UNRESOLVED: "the host name cannot be resolved",
        }
        reason = reason_of(code.name, details or code.name, words)
        return Failure(f"cannot reach the registry at {address}: {reason}", exit_code)

    def _channel(self, token: str, patience: _Patience, held: ExitStack) -> tuple[str, grpc.Channel]:
        """The first registry of the list that answers; the last one without a try. `held` gets what the channel needs
        beside itself."""
        addresses = _parse_registries(self.registry)
        credentials = grpc.ssl_channel_credentials(_read(self.ca, "CA file", read_pem) if self.ca else _system_roots())
        if self.proxy and not is_direct(self.proxy):
            return _channel_through(self.proxy.strip(), addresses, credentials, token, held)
        for address in addresses[:-1]:
            channel = _channel_to(address, credentials)
            if _answers(channel, token):
                return address, channel
            channel.close()
        return addresses[-1], _channel_to(addresses[-1], credentials, patience)

    def _read_token(self) -> str:
        token = self.token
        if self.token_file:
            token = _read(self.token_file, "token file", Path.read_bytes).decode("utf-8-sig", "replace")
        token = (token or "").strip()
        if not token:
            raise click.UsageError(
                "no admin token: give --token-file FILE or set PORTWAY_ADMIN_TOKEN (the registry writes the "
                "first one to its --admin-token-file)"
            )
        if not token.isascii() or not token.isprintable():
            raise click.UsageError("this is not an API token: one has the form pw_<id>_<secret>")
        return token


def _system_roots() -> bytes | None:
    try:
        return system_roots()
    except CertificateError as error:
        raise click.UsageError(f"the system's CAs cannot be used: {error}; or give --ca FILE") from None


def _answers(channel: grpc.Channel, token: str) -> bool:
    """Whether a registry answers a call, whatever it says. One that accepts connections may answer none; what is asked
    changes nothing, so that another one can be asked for what the operator wants."""
    metadata = (("authorization", f"Bearer {token}"),)
    try:
        AdminStub(channel).GetNode(GetNodeRequest(), metadata=metadata, timeout=_ANSWERED_WITHIN, wait_for_ready=True)
    except grpc.RpcError as error:
        return _EXIT_CODES.get(cast("grpc.Call", error).code()) is not ExitCode.UNREACHABLE
    return True


def _channel_through(
    url: str, addresses: list[str], credentials: grpc.ChannelCredentials, token: str, held: ExitStack
) -> tuple[str, grpc.Channel]:
    """The first registry that the proxy connects to, and that answers; the last one without a try. Raises Failure, and
    UsageError for the proxy's URL."""
    try:
        proxy = parse_proxy(url, "PORTWAY_PROXY (--proxy)")
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    failures = []
    for address in addresses:
        try:
            target, options = held.enter_context(open_door(proxy, parse_endpoint(address)))
        except (ProxyFailed, NoThread) as error:
            failures.append(f"cannot reach the registry at {address}: {error}")
            continue
        channel = grpc.secure_channel(target, credentials, (*options, *_OPTIONS))
        if address == addresses[-1] or _answers(channel, token):
            return address, channel
        channel.close()
        failures.append(f"cannot reach the registry at {address}: no answer within {_ANSWERED_WITHIN:g} s")
    raise Failure("; ".join(failures), ExitCode.UNREACHABLE)


def _channel_to(address: str, credentials: grpc.ChannelCredentials, patience: _Patience | None = None) -> grpc.Channel:
    """A channel to HOST:PORT; one whose calls fail when the name cannot be resolved, not within `patience` either."""
    registry = parse_endpoint(address)
    target, options = address, cast(Options, ())
    while not is_address(registry):
        try:
            target, options = target_of(registry, BlockingNames().addresses(registry.host, LOOKUP_TIMEOUT))
            break
        except (OSError, UnicodeError):
            if patience is None or not patience.waited():
                break
    return grpc.secure_channel(target, credentials, (*options, *_OPTIONS))


def _is_refused(error: grpc.RpcError) -> bool:
    call = cast("grpc.Call", error)
    return fault_of(call.code().name, call.details() or "") is CallFault.CONNECTION_REFUSED


def _parse_registries(text: str | None) -> list[str]:
    """HOST:PORT of each: one or several separated by commas, of which a port may be left out. Raises UsageError."""
    addresses = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not addresses:
        raise click.UsageError("no registry named: give --registry HOST or set PORTWAY_REGISTRY")
    found = []
    for address in addresses:
        try:
            found.append(str(parse_registry(address)))
        except ValueError as error:
            raise click.UsageError(f"{address!r} is not a registry's address: {error}") from None
    return found


def _read(path: Path, what: str, read: Callable[[Path], bytes]) -> bytes:
    try:
        return read(path)
    except OSError as error:
        raise click.UsageError(f"cannot read the {what} {path}: {error.strerror}") from error


_SECONDS_OF_UNIT: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_duration(ctx: click.Context, parameter: click.Parameter, text: str) -> int:
    """The callback of an option that is a duration, such as 90s, 30m, 1h or 2d: its seconds."""
    number, unit = text[:-1], text[-1:]
    if unit not in _SECONDS_OF_UNIT or not number.isascii() or not number.isdecimal() or int(number) == 0:
        raise click.BadParameter(f"{text!r}: use a number and s, m, h or d, such as 30m")
    return int(number) * _SECONDS_OF_UNIT[unit]


def parse_address(ctx: click.Context, parameter: click.Parameter, text: str) -> str:
    """The callback of an option that is HOST or HOST:PORT, or is not given."""
    try:
        if text:
            parse_registry(text)
    except ValueError:
        raise click.BadParameter(f"{text!r}: write HOST or HOST:PORT, such as tun.example.com") from None
    return text


def _set_json(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    options = ctx.find_object(GlobalOptions)
    if given and options is not None:
        ctx.obj = replace(options, json=True)


pass_options = click.make_pass_decorator(GlobalOptions)
# People type `--json` after the command; programs give the global option.
json_option = click.option(
    "--json", is_flag=True, expose_value=False, is_eager=True, callback=_set_json, help="Print JSON instead of text."
)
