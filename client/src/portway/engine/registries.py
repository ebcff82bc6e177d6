"""The calls to a registry, over gRPC: each registry in turn, statuses turned into errors and reasons.

The calls block, each on a thread of its own (discovery.py) with synchronous stubs: a child forked from a program
that used grpc.aio cannot call at all. A channel lives for one call, so a fork inherits none.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from portway_proto.carry.contract import Address

from portway.config import CA_VARIABLE, Settings
from portway.engine.discovery import Grant, Located, Node
from portway.errors import Attempt, RemoteError, UnreachableError
from portway.forks import unforked

if TYPE_CHECKING:
    import grpc
    from portway_proto.v1.discovery_pb2 import Grant as GrantMessage

T = TypeVar("T")

# One registry's share of the time that opening a tunnel may take (10 s by default): three can be tried.
CALL_TIMEOUT: Final = 3.0
# A grant is renewed no sooner than this after it came, whatever it says: a registry must not be hammered.
SHORTEST_LIFE: Final = 5.0


class GrpcRegistries:
    """The registries of the settings, tried in turn, beginning with the one that answered last."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._order = list(settings.registries)

    def locate(self) -> Located:
        """Raises UnreachableError, AuthError, QuotaError, InvalidError, RemoteError."""
        with unforked:
            from portway_proto.v1.discovery_pb2 import LocateRequest
            from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub

            from portway.version import VERSION

        region = self._settings.region
        request = LocateRequest(region=region, client_version=VERSION)
        answer = self._ask(
            "no registry could say where the relay nodes are",
            lambda channel, metadata: DiscoveryStub(channel).Locate(request, timeout=CALL_TIMEOUT, metadata=metadata),
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
        with unforked:
            from portway_proto.v1.discovery_pb2 import RenewRequest
            from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub

        request = RenewRequest()
        answer = self._ask(
            "no registry renewed the grant",
            lambda channel, metadata: DiscoveryStub(channel).Renew(request, timeout=CALL_TIMEOUT, metadata=metadata),
        )
        return _grant(answer.grant)

    def _ask(self, otherwise: str, call: "Callable[[grpc.Channel, tuple[tuple[str, str], ...]], T]") -> T:
        """The first answer; without one, an UnreachableError that begins with `otherwise`."""
        with unforked:
            import grpc

            from portway.engine.failures import status_error

        metadata = (("authorization", f"Bearer {self._settings.token}"),)
        attempts: list[Attempt] = []
        for address in tuple(self._order):
            try:
                with unforked, self._channel(address) as channel:
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
        raise UnreachableError(otherwise, tuple(attempts))

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
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return f"its certificate is not trusted: check {CA_VARIABLE}"
    if "Hostname Verification" in details:
        return "its certificate is for another name: use the name that it was made for"
    if "create security handshaker" in details:
        return f"the CA file cannot be used: check {CA_VARIABLE}"
    if "SSL_ERROR" in details or "WRONG_VERSION_NUMBER" in details or "Ssl handshake" in details:
        return "it does not speak TLS there: is this the registry's public port?"
    if name == "DEADLINE_EXCEEDED":
        return f"no answer within {CALL_TIMEOUT:g} s"
    if "Connection refused" in details:
        return "connection refused: is it running, and is this its address?"
    if "address lookup failed" in details or "DNS resolution failed" in details:
        return "its name cannot be resolved"
    if name == "UNIMPLEMENTED":
        return "it is no registry, or of another version"
    if name == "UNAVAILABLE":
        return details
    return f"{name.lower().replace('_', ' ')}: {details}"


def _grant(message: "GrantMessage") -> Grant:
    """Due at half its life, so what is left then is as long as what has passed: no clock of ours is compared."""
    if not message.token:
        raise RemoteError("the registry sent no grant: is it a Portway registry?")
    return Grant(message.token, max(SHORTEST_LIFE, (message.expires_at_ms - message.renew_at_ms) / 1000))
