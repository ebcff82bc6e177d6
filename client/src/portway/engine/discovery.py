"""What a registry is asked: which nodes there are, the CA to trust them by, a grant; and a fresh grant.

The calls block, each on a thread of its own with synchronous stubs: a child forked from a program that used
grpc.aio cannot call at all. A channel lives for one call, so a fork inherits none. Directory is the part on
the engine's loop: it remembers the answer and knows when a grant wants renewal.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from portway_proto.carry.contract import Address

from portway.config import CA_VARIABLE, Settings
from portway.errors import Attempt, RemoteError, UnreachableError

if TYPE_CHECKING:
    import grpc
    from portway_proto.v1.discovery_pb2 import Grant as GrantMessage

logger = logging.getLogger(__name__)

T = TypeVar("T")

# One registry's share of the time that opening a tunnel may take (10 s by default): three can be tried.
CALL_TIMEOUT: Final = 3.0
# A grant is renewed no sooner than this after it came, whatever it says: a registry must not be hammered.
SHORTEST_LIFE: Final = 5.0


@dataclass(frozen=True, slots=True)
class Node:
    """A relay node to dial."""

    name: str
    region: str
    address: Address
    server_name: str


@dataclass(frozen=True, slots=True)
class Grant:
    """A registry's permission. `renew_after` is how many seconds after it came the next one is due."""

    token: str = field(repr=False)
    renew_after: float


@dataclass(frozen=True, slots=True)
class Located:
    """A registry's answer; nodes are in the order to try them."""

    nodes: tuple[Node, ...]
    cluster_ca: bytes = field(repr=False)
    grant: Grant


class Registries(Protocol):
    """Where answers come from. Both calls block; both raise Error."""

    def locate(self) -> Located: ...

    def renew(self) -> Grant: ...


class GrpcRegistries:
    """The registries of the settings, tried in turn, beginning with the one that answered last."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._order = list(settings.registries)

    def locate(self) -> Located:
        """Raises UnreachableError, AuthError, QuotaError, InvalidError, ConfigError, RemoteError."""
        from portway_proto.v1.discovery_pb2 import LocateRequest
        from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub

        from portway.version import VERSION

        region = self._settings.region
        request = LocateRequest(region=region, client_version=VERSION)
        answer = self._ask(
            lambda channel, metadata: DiscoveryStub(channel).Locate(request, timeout=CALL_TIMEOUT, metadata=metadata)
        )
        nodes = tuple(
            Node(c.node.name, c.node.region, Address(c.node.host, c.node.port), c.node.server_name)
            for c in answer.candidates
        )
        if not nodes:
            where = f"region {region!r}" if region else "the cluster"
            raise UnreachableError(f"no relay node of {where} is ready: start one, or ask for another region")
        return Located(nodes, answer.cluster_ca, _grant(answer.grant))

    def renew(self) -> Grant:
        """Raises as `locate`."""
        from portway_proto.v1.discovery_pb2 import RenewRequest
        from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub

        answer = self._ask(
            lambda channel, metadata: DiscoveryStub(channel).Renew(
                RenewRequest(), timeout=CALL_TIMEOUT, metadata=metadata
            )
        )
        return _grant(answer.grant)

    def _ask(self, call: "Callable[[grpc.Channel, tuple[tuple[str, str], ...]], T]") -> T:
        import grpc

        from portway.engine.failures import status_error

        metadata = (("authorization", f"Bearer {self._settings.token}"),)
        attempts: list[Attempt] = []
        for address in tuple(self._order):
            try:
                with self._channel(address) as channel:
                    answer = call(channel, metadata)
            except grpc.RpcError as error:
                name, details = _status_of(error)
                known = status_error(name, details)
                if known is not None:
                    raise known from None
                attempts.append(Attempt("", address, _reason(name, details)))
            else:
                self._order.remove(address)
                self._order.insert(0, address)
                return answer
        raise UnreachableError("no registry could be reached: check PORTWAY_REGISTRY", tuple(attempts))

    def _channel(self, address: str) -> "grpc.Channel":
        import grpc

        credentials = grpc.ssl_channel_credentials(self._settings.ca)
        # Without a pool of its own a new channel would wait out the back-off of the one before.
        return grpc.secure_channel(address, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


def _status_of(error: Exception) -> tuple[str, str]:
    import grpc

    assert isinstance(error, grpc.Call)
    return error.code().name, error.details() or ""


def _reason(name: str, details: str) -> str:
    """Why one registry did not do, for people."""
    if "CERTIFICATE_VERIFY_FAILED" in details or "certificate verify failed" in details:
        return f"its certificate is not trusted: check {CA_VARIABLE}"
    if "Ssl handshake" in details or "SSL_ERROR" in details or "WRONG_VERSION_NUMBER" in details:
        return "it does not speak TLS there: is this the registry's public port?"
    if name == "DEADLINE_EXCEEDED":
        return f"no answer within {CALL_TIMEOUT:g} s"
    if "Connection refused" in details:
        return "connection refused"
    return f"{name.lower().replace('_', ' ')}: {details}"


def _grant(message: "GrantMessage") -> Grant:
    """Due at half its life, so what is left then is as long as what has passed: no clock of ours is compared."""
    if not message.token:
        raise RemoteError("the registry sent no grant: is it a Portway registry?")
    return Grant(message.token, max(SHORTEST_LIFE, (message.expires_at_ms - message.renew_at_ms) / 1000))


class Directory:
    """What the registries last said."""

    def __init__(self, registries: Registries, clock: Callable[[], float] = time.monotonic) -> None:
        self._registries = registries
        self._clock = clock
        self._renew_at = 0.0
        self.located: Located | None = None

    async def locate(self) -> Located:
        """Ask now. Raises as GrpcRegistries.locate; what was known before stays known."""
        located = await on_thread(self._registries.locate)
        self._renew_at = self._clock() + located.grant.renew_after
        self.located = located
        return located

    async def renew(self) -> None:
        """Get a fresh grant. Raises as GrpcRegistries.renew; the grant before stays in use."""
        grant = await on_thread(self._registries.renew)
        if self.located is not None:
            self.located = replace(self.located, grant=grant)
            self._renew_at = self._clock() + grant.renew_after

    def renewal_due_in(self) -> float:
        """Seconds until the grant should be renewed; 0 when it is overdue."""
        return max(0.0, self._renew_at - self._clock())


async def on_thread(function: Callable[[], T]) -> T:
    """Run a blocking call on a daemon thread: one that hangs must not keep its program from ending."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:
            failure = error
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:
            pass  # the engine has ended meanwhile

    threading.Thread(target=run, name="portway registry", daemon=True).start()
    return await answer
