"""The Mesh service, which nodes call: sessions, the holders of labels, blocks of raw ports, certificates."""

import asyncio
import logging
from typing import Any, Final

from portway_proto.records import InvalidRecord, node_record
from portway_proto.v1.mesh_pb2 import (
    CheckStoreRequest,
    CheckStoreResponse,
    NodeMessage,
    Register,
    RenewCertificateRequest,
    RenewCertificateResponse,
    ReservePortsRequest,
    ReservePortsResponse,
    ResolveManyRequest,
    ResolveManyResponse,
    ResolveRequest,
    ResolveResponse,
)
from portway_proto.v1.mesh_pb2_grpc import MeshServicer
from portway_proto.v1.types_pb2 import NodeInfo, TunnelInfo
from portway_proto.wire.labels import is_label
from portway_proto.wire.statements import StatementInvalid, read_claim
from portway_runtime.clocks import Monotonic, monotonic
from portway_runtime.identities import NodeIdentity, node_name
from portway_runtime.rates import KeyedRate

from portway_registry.errors import InvalidRequest, NotAllowed, NotFound, StoreUnavailable
from portway_registry.names import check_domain, check_host, check_region
from portway_registry.nodes.certificates import NodeCertificates
from portway_registry.nodes.hub import Hub
from portway_registry.public_suffixes import SuffixCheck
from portway_registry.services.callers import current_caller
from portway_registry.state.records import PresenceRecord
from portway_registry.state.store_reach import StoreReach
from portway_registry.state.views import Views
from portway_registry.tunnels.port_blocks import PortBlocks

logger = logging.getLogger(__name__)

# Seconds from the start of a session's stream to its Register.
_REGISTER_TIMEOUT: Final = 10.0
_MAX_LABELS: Final = 256  # as mesh.proto says
# Labels of one node that are looked up in the store. Each costs three reads, and nodes ask for those in use whose home
# was lost: two nodes' worth of them is what one replica spends a tenth of a core on.
_LOOKS_PER_SECOND: Final = 20.0
_LOOKS_BURST: Final = 100.0
_RATED_NODES: Final = 1_000


class Mesh(MeshServicer):
    """Callers are nodes, identified by their certificates."""

    def __init__(
        self,
        hub: Hub,
        views: Views,
        port_blocks: PortBlocks,
        certificates: NodeCertificates,
        suffix_check: SuffixCheck,
        reach: StoreReach,
        *,
        domain: str | None = None,
        clock: Monotonic = monotonic,
    ) -> None:
        """`domain`: the only one that nodes may serve; None allows each its own."""
        self._looks: KeyedRate[str] = KeyedRate(_LOOKS_PER_SECOND, _LOOKS_BURST, clock, _RATED_NODES)
        self._suffix_check = suffix_check
        self._domain = domain
        self._hub = hub
        self._views = views
        self._port_blocks = port_blocks
        self._certificates = certificates
        self._reach = reach

    async def Session(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        requests = aiter(request_iterator)
        register = await _read_register(requests)
        identity = _caller_identity()
        node = _checked_node(register.node, identity)
        if self._domain is not None and node.domain != self._domain:
            raise NotAllowed(f"this cluster's domain is {self._domain}, the registration names {node.domain!r}")
        self._suffix_check.check(node.domain)
        checked = Register(node=node, lease_id=register.lease_id, time_ms=register.time_ms)
        pem = current_caller.get().pem
        await self._hub.serve(checked, requests, context.write, issued_ms=identity.issued_ms, certificate=pem)

    async def Resolve(self, request: ResolveRequest, context: Any) -> ResolveResponse:  # noqa: N802
        if request.current and self._looks.take(current_caller.get().name):
            answer = await self._stored_holder(request.label)
        else:
            answer = self._holder(request.label)
        if answer is None:
            raise NotFound("no tunnel has this label")
        return answer

    async def ResolveMany(self, request: ResolveManyRequest, context: Any) -> ResolveManyResponse:  # noqa: N802
        if len(request.labels) > _MAX_LABELS:
            raise InvalidRequest(f"{len(request.labels)} labels at once: ask for at most {_MAX_LABELS}")
        return ResolveManyResponse(answers=[self._holder(label) or ResolveResponse() for label in request.labels])

    async def CheckStore(self, request: CheckStoreRequest, context: Any) -> CheckStoreResponse:  # noqa: N802
        return CheckStoreResponse(answers=await self._reach.answers_now())

    async def ReservePorts(self, request: ReservePortsRequest, context: Any) -> ReservePortsResponse:  # noqa: N802
        node = current_caller.get().name
        region = self._hub.region_of(node)
        if region is None:
            raise InvalidRequest("ports are reserved for a node that has a session here: register first")
        if not 1 <= request.first <= request.last <= 65535:
            raise InvalidRequest(f"{request.first}-{request.last} is not a range of ports: check --raw-ports")
        return await self._port_blocks.reserve(node, region, request)

    async def RenewCertificate(  # noqa: N802
        self, request: RenewCertificateRequest, context: Any
    ) -> RenewCertificateResponse:
        identity = _caller_identity()
        certificate = await self._certificates.renew(identity.node, identity.issued_ms, request.csr)
        return RenewCertificateResponse(certificate=certificate)

    def _holder(self, label: str) -> ResolveResponse | None:
        """The tunnel of a label with its node and the presence of its session; None when no node has announced it.

        Nodes need not know whose a tunnel is.
        """
        views = self._views
        tunnel = views.tunnels.get(label)
        if tunnel is None:
            return None
        session = _session_of(tunnel)
        presence = None if session is None else views.presences.get(session)
        return _described(tunnel, views.nodes.get(tunnel.node), presence)

    async def _stored_holder(self, label: str) -> ResolveResponse | None:
        """The same by the store, of which the views may be behind; by the views during an outage of it."""
        views = self._views
        try:
            item = (await views.tunnels.read([label]))[label] if is_label(label) else None
            if item is None:
                return None
            tunnel, session = item.value, _session_of(item.value)
            nodes = await views.nodes.read([tunnel.node])
            presences = {} if session is None else await views.presences.read([session])
        except StoreUnavailable as error:
            logger.warning("a label is not looked up in the store", extra={"reason": str(error)})
            return self._holder(label)
        node, presence = nodes[tunnel.node], next(iter(presences.values()), None)
        return _described(tunnel, node.value if node else None, presence.value if presence else None)


def _session_of(tunnel: TunnelInfo) -> str | None:
    """The session's key in hex, by which its presence is stored; None when the tunnel's claim cannot be read."""
    try:
        return read_claim(tunnel.claim).session_key.hex()
    except StatementInvalid:
        return None


def _described(tunnel: TunnelInfo, node: NodeInfo | None, presence: PresenceRecord | None) -> ResolveResponse:
    answer = ResolveResponse(tunnel=tunnel, node=node)
    answer.tunnel.ClearField("tenant")
    answer.tunnel.ClearField("token_id")
    if presence is not None:
        answer.presence = presence.encoded
    return answer


def _caller_identity() -> NodeIdentity:
    identity = current_caller.get().certificate
    assert identity is not None, "the mesh port admits only certificates"
    return identity


async def _read_register(requests: Any) -> Register:
    """The Register that opens a session's stream. Raises InvalidRequest when another message comes, or none in time."""
    message: NodeMessage | None
    try:
        async with asyncio.timeout(_REGISTER_TIMEOUT):
            message = await anext(requests, None)
    except TimeoutError:
        message = None
    if message is None or message.WhichOneof("message") != "register":
        raise InvalidRequest("a session's first message is Register")
    return message.register


def _checked_node(sent: NodeInfo, identity: NodeIdentity) -> NodeInfo:
    """A copy of a registration with known fields only.

    Raises InvalidRequest for a field without its form, NotAllowed for one that contradicts the certificate.
    """
    try:
        node = node_record(sent)
    except InvalidRecord as error:
        raise InvalidRequest(f"the registration is refused: {error}") from None
    name = identity.node
    if node.name != name:
        raise NotAllowed(f"the certificate is node {name}'s, the registration names {node.name!r}")
    if identity.region not in ("", node.region):
        raise NotAllowed(
            f"the certificate is of a node of region {identity.region!r}, the registration names {node.region!r}: to "
            f"move the node invite it anew (`portway-admin node invite --region {node.region} --name {name}`)"
        )
    if node.server_name != node_name(name):
        raise InvalidRequest(f"server_name must be {node_name(name)}, the name in the node's certificate")
    try:
        check_region(node.region)
        check_domain(node.domain)
        check_host(node.host)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    if not 1 <= node.port <= 65535:
        raise InvalidRequest(f"port {node.port} is not a port: advertise the one that clients dial")
    return node
