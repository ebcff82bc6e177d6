"""GrpcRegistries: the calls to registries over gRPC. Each registry is tried in turn; a status becomes an error, or the
reason why the next one was asked.

The stubs are synchronous, and each call runs on a thread of its own (directory.py): a child forked from a program that
used grpc.aio cannot call at all. A channel lives for one call, so a fork inherits none. gRPC and the messages are
imported at the first call.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from portway_runtime.descriptors import demand_descriptors
from portway_runtime.endpoints import Endpoint, parse_endpoint
from portway_runtime.errors import CertificateError, NoDescriptors, NoThread, ProxyFailed, SettingsError
from portway_runtime.grpc_channels import NO_PROXY_OF_ITS_OWN, OWN_CONNECTIONS, CallFault, fault_of, reason_of
from portway_runtime.grpc_targets import LOOKUP_TIMEOUT, Options, is_address, target_of
from portway_runtime.names import BlockingNames
from portway_runtime.printable import printable_line
from portway_runtime.proxies import Proxy
from portway_runtime.threads import demand_threads
from portway_runtime.trusted_roots import system_roots

from portway.config import CA_VARIABLE, GEOIP, Settings
from portway.engine.directory import Expected, Grant, Located, Node, Renewed, RoundTrip
from portway.errors import Attempt, ConfigError, RemoteError, UnreachableError
from portway.fork_guard import fork_guard

if TYPE_CHECKING:
    import grpc
    from portway_proto.v1.discovery_pb2 import Candidate
    from portway_proto.v1.discovery_pb2 import Grant as GrantMessage

T = TypeVar("T")
Way = tuple[str, Options]  # what a channel is made with

# Seconds. Three registries can be tried in the time that opening a tunnel may take (10 s by default).
CALL_TIMEOUT: Final = 3.0
# Seconds. A report does not benefit its sender, and a fork of the program waits until the call is over.
REPORT_TIMEOUT: Final = 1.0
# Seconds. A grant is not renewed sooner than this after it was received, so that no registry is flooded.
SHORTEST_LIFE: Final = 5.0
# What a setting of this side is wrong for. All else may be another in a moment: a machine or a cluster that starts.
_LASTING: Final = frozenset(
    {
        CallFault.UNTRUSTED,
        CallFault.WRONG_NAME,
        CallFault.OWN_CERTIFICATE,
        CallFault.CA_UNUSABLE,
        CallFault.NOT_TLS,
        CallFault.NOT_SERVED,
    }
)


class GrpcRegistries:
    """The registries that the settings name, tried in turn, beginning with the one that answered last."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._order = list(settings.registries)
        self._names = BlockingNames()

    @property
    def last_answered(self) -> str:
        """The registry that answered last, which is asked first the next time."""
        return self._order[0]

    def locate(self, session_key: bytes, new_tunnels: int = 0, limit: int = 0) -> Located:
        """Ask for candidate nodes and a grant for this session key, to open so many tunnels; 0 to attach those that
        there are. `limit`: of candidates, 0 for the registry's.

        Raises UnreachableError, AuthError, QuotaError, InvalidError, RemoteError.
        """
        with fork_guard:
            from portway_proto.v1.discovery_pb2 import LocateRequest, Strategy
            from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub

            from portway.version import VERSION

        region = self._settings.region
        geoip = self._settings.strategy == GEOIP
        strategy = Strategy.STRATEGY_GEOIP if geoip else Strategy.STRATEGY_LATENCY
        request = LocateRequest(
            region=region,
            client_version=VERSION,
            strategy=strategy,
            new_tunnels=new_tunnels,
            session_key=session_key,
            limit=limit,
        )
        answer = self.ask(
            "no registry could say where the relay nodes are",
            lambda channel, metadata: DiscoveryStub(channel).Locate(request, timeout=CALL_TIMEOUT, metadata=metadata),
        )
        candidates = well_formed(answer.candidates)
        nodes = tuple(map(self.node_of, candidates))
        if not nodes:
            where = f"region {region!r}" if region else "the cluster"
            raise UnreachableError(f"no relay node of {where} is ready: start one, or ask for another region")
        expected = {one.node.name: expected_of(one) for one in candidates}
        if not answer.cluster_id:
            raise RemoteError("the registry does not name its cluster: it is older than this client, upgrade it")
        grant = _grant(answer.grant)
        return Located(nodes, answer.cluster_ca, grant, expected, answer.cluster_id, answer.registry_time_ms)

    def renew(self, session_key: bytes) -> Renewed:
        """Ask for a fresh grant for this session key. Raises as `locate`."""
        with fork_guard:
            from portway_proto.v1.discovery_pb2 import RenewRequest
            from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub

        request = RenewRequest(session_key=session_key, learns_cluster_ca=True)
        answer = self.ask(
            "no registry renewed the grant",
            lambda channel, metadata: DiscoveryStub(channel).Renew(request, timeout=CALL_TIMEOUT, metadata=metadata),
        )
        return Renewed(_grant(answer.grant), answer.registry_time_ms, answer.cluster_ca)

    def report(self, round_trips: Sequence[RoundTrip]) -> None:
        """Tell the registry that answered last what was measured. Raises as `locate`."""
        with fork_guard:
            from portway_proto.v1.discovery_pb2 import ReportRequest
            from portway_proto.v1.discovery_pb2 import RoundTrip as Reported
            from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub

        request = ReportRequest(
            round_trips=[Reported(node=one.node, ms=one.ms, at_least=one.at_least) for one in round_trips]
        )
        self.ask(
            "the registry could not be told of round trips",
            lambda channel, metadata: DiscoveryStub(channel).Report(request, timeout=REPORT_TIMEOUT, metadata=metadata),
            self._order[:1],
        )

    def ask(
        self,
        otherwise: str,
        call: "Callable[[grpc.Channel, tuple[tuple[str, str], ...]], T]",
        registries: Sequence[str] | None = None,
    ) -> T:
        """The first answer of `registries` (all if None). Raises the error that a status means, and UnreachableError
        with the message `otherwise` if none answered; it is lasting if it is of every registry."""
        with fork_guard:
            import grpc

            from portway.engine.failures import status_error

        metadata = (("authorization", f"Bearer {self._settings.token}"),)
        attempts: list[Attempt] = []
        lasting = True
        roots = self._roots()
        for address in tuple(self._order if registries is None else registries):
            registry = parse_endpoint(address)
            via = self.way_to(registry)
            try:
                way = self._direct(registry) if via is None else None
            except (OSError, UnicodeError) as error:
                why = f" within {LOOKUP_TIMEOUT:g} s" if isinstance(error, TimeoutError) else ""
                attempts.append(Attempt("", address, f"its name cannot be resolved{why}"))
                lasting = False  # names appear late on a machine that starts
                continue
            try:
                with fork_guard:
                    demand_descriptors()
                    demand_threads()
                    with _opened(way, via, registry) as (target, options), _channel(target, options, roots) as channel:
                        answer = call(channel, metadata)
            except (NoDescriptors, NoThread) as error:
                attempts.append(Attempt("", address, f"not asked: {error}"))
            except ProxyFailed as error:
                attempts.append(Attempt("", address, str(error)))
                lasting = lasting and error.lasting
            except grpc.RpcError as error:
                name, details = _status_of(error)
                known = status_error(name, details)
                if known is not None:
                    raise known from None
                through = f", through {via}" if via is not None else ""
                attempts.append(Attempt("", address, _reason(name, details) + through))
                lasting = lasting and fault_of(name, details) in _LASTING
            else:
                if self._order[0] != address:
                    self._order.remove(address)
                    self._order.insert(0, address)
                return answer
        raise UnreachableError(otherwise, tuple(attempts), lasting=lasting)

    def node_of(self, candidate: "Candidate") -> Node:
        """The node of a candidate that a registry named. Raises ConfigError when its proxy cannot be used."""
        node = candidate.node
        address = Endpoint(node.host, node.port)
        return Node(node.name, node.region, address, node.server_name, node.domain, self.way_to(address))

    def way_to(self, endpoint: Endpoint) -> Proxy | None:
        """The proxy to it, if there is one. Raises ConfigError when that cannot be used."""
        try:
            return self._settings.proxies.way_to(endpoint)
        except SettingsError as error:
            raise ConfigError(str(error)) from None

    def _direct(self, registry: Endpoint) -> Way:
        """What a channel is made with. Raises OSError and UnicodeError when its name cannot be resolved."""
        if is_address(registry):
            return str(registry), ()
        return target_of(registry, self._names.addresses(registry.host, LOOKUP_TIMEOUT))

    def _roots(self) -> bytes | None:
        """The CAs that registries' certificates are verified with; None for gRPC's own. Raises ConfigError."""
        if self._settings.ca is not None:
            return self._settings.ca
        try:
            return system_roots()
        except CertificateError as error:
            raise ConfigError(f"the system's CAs cannot be used: {error}; or name one with {CA_VARIABLE}") from None


@contextmanager
def _opened(way: Way | None, via: Proxy | None, registry: Endpoint) -> Iterator[Way]:
    """The way to a registry, through a door in its proxy if there is one. Raises ProxyFailed, NoThread."""
    if way is not None:
        yield way
        return
    from portway_runtime.proxy_door import open_door  # most programs have no proxy

    assert via is not None
    with open_door(via, registry) as way:
        yield way


def _channel(target: str, options: Options, roots: bytes | None) -> "grpc.Channel":
    import grpc

    credentials = grpc.ssl_channel_credentials(roots)
    return grpc.secure_channel(target, credentials, (*options, *OWN_CONNECTIONS, *NO_PROXY_OF_ITS_OWN))


def well_formed(candidates: "Iterable[Candidate]") -> "list[Candidate]":
    """The candidates whose record has its form, with known fields only: one node must not keep a client from the
    others, nor send it text for its terminal."""
    with fork_guard:
        from portway_proto.records import InvalidRecord, node_record

    found = []
    for candidate in candidates:
        try:
            record = node_record(candidate.node)
        except InvalidRecord:
            continue
        candidate.node.CopyFrom(record)
        found.append(candidate)
    return found


def expected_of(candidate: "Candidate") -> Expected:
    """What the registry expects of a candidate's round trip."""
    return Expected(candidate.expected_rtt_ms, candidate.learned, candidate.load_ms)


def _status_of(error: Exception) -> tuple[str, str]:
    import grpc

    assert isinstance(error, grpc.Call)
    return error.code().name, printable_line(error.details() or "")


def _reason(name: str, details: str) -> str:
    """Why one registry was not used, for people."""
    words = {
        CallFault.UNTRUSTED: f"its certificate is not trusted: check {CA_VARIABLE}",
        CallFault.WRONG_NAME: "its certificate is for another name: use the name that it was made for",
        CallFault.OWN_CERTIFICATE: "it asks for a client certificate: is this the registry's public port?",
        CallFault.CA_UNUSABLE: f"the CA file cannot be used: check {CA_VARIABLE}",
        CallFault.NOBODY_BEHIND: "no registry answers behind that node",
        CallFault.UNKNOWN_NAME: "no registry of this name is reached there: is this the registry's own name?",
        CallFault.NOT_TLS: "it does not speak TLS there: is this the registry's public port?",
        CallFault.TIMED_OUT: f"no answer within {CALL_TIMEOUT:g} s",
        CallFault.CONNECTION_REFUSED: "connection refused: is it running, and is this its address?",
        CallFault.UNRESOLVED: "its name cannot be resolved",
        CallFault.NOT_SERVED: "it is not a registry, or of another version",
    }
    return reason_of(name, details, words)


def _grant(message: "GrantMessage") -> Grant:
    """It is due at half of its life, so the remaining half is also the time until then: no clocks are compared."""
    if not message.token:
        raise RemoteError("the registry sent no grant: is it a Portway registry?")
    return Grant(message.token, max(SHORTEST_LIFE, (message.expires_at_ms - message.renew_at_ms) / 1000))
