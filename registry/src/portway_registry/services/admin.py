"""What operators call: nodes, tunnels, tokens, audit."""

import heapq
import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec
from portway_proto.v1 import admin_pb2 as pb
from portway_proto.v1.admin_pb2_grpc import AdminServicer
from portway_proto.v1.types_pb2 import NodeInfo, TunnelInfo

from portway_registry.access import tokens
from portway_registry.access.invitations import Invitations
from portway_registry.errors import InvalidRequest, NotFound, StoreUnavailable
from portway_registry.names import check_tenant
from portway_registry.nodes.operator_orders import Orders
from portway_registry.services.callers import current_caller
from portway_registry.services.view_stream import watch
from portway_registry.state import audit, keys
from portway_registry.state.records import InvitationRecord, Order, Role, TokenRecord, encode
from portway_registry.state.views import Views
from portway_registry.store.contract import Revision, Store

logger = logging.getLogger(__name__)

_ABSENT: Final = Revision(0)
_PAGE: Final = 500
_LARGEST_PAGE: Final = 5000  # some 1.5 MB of tunnels; gRPC takes messages of 4 MB
_AUDIT_ENTRIES: Final = 100
_MOST_AUDIT_ENTRIES: Final = 1000
_LONGEST_DESCRIPTION: Final = 200
# More than a node can hold (DESIGN §12) would be no quota.
_MOST_TUNNELS: Final = 1_000_000
# A key that changes under each of so many tries is fought over: better to say so.
_TRIES: Final = 8

_ROLES: Final = {pb.ROLE_CLIENT: Role.CLIENT, pb.ROLE_ADMIN: Role.ADMIN}
_ORDERS: Final[dict[int, Order | None]] = {
    pb.NODE_ORDER_SERVE: None,
    pb.NODE_ORDER_CORDON: Order.CORDON,
    pb.NODE_ORDER_DRAIN: Order.DRAIN,
    pb.NODE_ORDER_REMOVE: Order.REMOVE,
}
_ROLE_NUMBERS: Final = {role: number for number, role in _ROLES.items()}


class Admin(AdminServicer):
    """The Admin service. Lists come from memory; what is changed is in the store when the answer goes out."""

    def __init__(self, store: Store, views: Views, invitations: Invitations, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._views = views
        self._now_ms = now_ms
        self._orders = Orders(store, views, now_ms)
        self._invitations = invitations

    async def ListNodes(self, request: pb.ListNodesRequest, context: Any) -> pb.ListNodesResponse:  # noqa: N802
        nodes = [node for node in self._views.nodes.values() if request.region in ("", node.region)]
        return pb.ListNodesResponse(nodes=sorted(nodes, key=lambda node: node.name))

    async def GetNode(self, request: pb.GetNodeRequest, context: Any) -> pb.GetNodeResponse:  # noqa: N802
        node = self._views.nodes.get(request.name)
        if node is None:
            raise NotFound(f"no node {request.name!r} is known: see `portway-admin node list`")
        return pb.GetNodeResponse(node=node)

    async def OrderNode(self, request: pb.OrderNodeRequest, context: Any) -> pb.OrderNodeResponse:  # noqa: N802
        if request.order not in _ORDERS:
            raise InvalidRequest("an order is to serve, to cordon, to drain or to remove")
        order = _ORDERS[request.order]
        await self._orders.give(request.name, order)
        logger.info("node ordered", extra={"node": request.name, "order": order or "serve"})
        await self._recorded(f"node.{order or 'serve'}", request.name)
        return pb.OrderNodeResponse()

    async def InviteNode(self, request: pb.InviteNodeRequest, context: Any) -> pb.InviteNodeResponse:  # noqa: N802
        made, token = await self._invitations.make(
            region=request.region, node=request.node, ttl=request.ttl_seconds, by=current_caller.get().name
        )
        await self._recorded("node.invite", made.id)
        return pb.InviteNodeResponse(invitation=_invitation(made), token=token)

    async def ListInvitations(  # noqa: N802
        self, request: pb.ListInvitationsRequest, context: Any
    ) -> pb.ListInvitationsResponse:
        found = self._invitations.listed(over=request.include_over)
        return pb.ListInvitationsResponse(invitations=map(_invitation, found))

    async def RevokeInvitation(  # noqa: N802
        self, request: pb.RevokeInvitationRequest, context: Any
    ) -> pb.RevokeInvitationResponse:
        revoked = await self._invitations.revoke(request.id)
        await self._recorded("invitation.revoke", revoked.id)
        return pb.RevokeInvitationResponse(invitation=_invitation(revoked))

    async def WatchNodes(self, request: pb.WatchNodesRequest, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        def told(kind: pb.ChangeKind.ValueType, node: NodeInfo | None) -> pb.WatchNodesResponse:
            return pb.WatchNodesResponse(kind=kind, node=node)

        await watch(self._views.nodes, told, context.write)

    async def ListTunnels(self, request: pb.ListTunnelsRequest, context: Any) -> pb.ListTunnelsResponse:  # noqa: N802
        size = min(request.page_size or _PAGE, _LARGEST_PAGE)
        view = self._views.tunnels
        found = view.of_node(request.node) if request.node else view.items
        fitting = (
            label
            for label, item in found.items()
            if label > request.page_token and request.tenant in ("", item.value.tenant)
        )
        labels = heapq.nsmallest(size + 1, fitting)
        more = labels[size - 1] if len(labels) > size else ""
        return pb.ListTunnelsResponse(tunnels=[found[label].value for label in labels[:size]], next_page_token=more)

    async def GetTunnel(self, request: pb.GetTunnelRequest, context: Any) -> pb.GetTunnelResponse:  # noqa: N802
        tunnel = self._views.tunnels.get(request.label)
        if tunnel is None:
            raise NotFound("no tunnel with this label is open: see `portway-admin tunnel list`")
        return pb.GetTunnelResponse(tunnel=tunnel, node=self._views.nodes.get(tunnel.node))

    async def WatchTunnels(self, request: pb.WatchTunnelsRequest, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        def told(kind: pb.ChangeKind.ValueType, tunnel: TunnelInfo | None) -> pb.WatchTunnelsResponse:
            return pb.WatchTunnelsResponse(kind=kind, tunnel=tunnel)

        await watch(self._views.tunnels, told, context.write)

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Any) -> pb.CreateTokenResponse:  # noqa: N802
        role = _ROLES.get(request.role)
        if role is None:
            raise InvalidRequest("role must be client or admin")
        try:
            tenant = check_tenant(request.tenant)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        if len(request.description) > _LONGEST_DESCRIPTION:
            raise InvalidRequest(f"a description has {_LONGEST_DESCRIPTION} characters at the most")
        if request.max_tunnels > _MOST_TUNNELS:
            raise InvalidRequest(f"max_tunnels is {_MOST_TUNNELS} at the most, or 0 for the registry's default")
        for _ in range(_TRIES):
            made = tokens.make(
                tenant=tenant,
                role=role,
                now_ms=self._now_ms(),
                description=request.description,
                max_tunnels=request.max_tunnels,
            )
            if await self._store.put(keys.token(made.record.id), encode(made.record), expected=_ABSENT):
                await self._recorded("token.create", made.record.id)
                return pb.CreateTokenResponse(info=_info(made.record), token=made.text)
        raise StoreUnavailable("no free token id was found")

    async def ListTokens(self, request: pb.ListTokensRequest, context: Any) -> pb.ListTokensResponse:  # noqa: N802
        found = [
            _info(token)
            for token in self._views.tokens.values()
            if request.tenant in ("", token.tenant) and (request.include_revoked or not token.revoked_at_ms)
        ]
        return pb.ListTokensResponse(tokens=sorted(found, key=lambda token: (token.created_at_ms, token.id)))

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Any) -> pb.RevokeTokenResponse:  # noqa: N802
        for _ in range(_TRIES):
            entry = await self._store.get(keys.token(request.id))
            record = None if entry is None else self._views.tokens.decode(entry)
            if entry is None or record is None:
                raise NotFound(f"no token {request.id!r} is known: see `portway-admin token list`")
            if record.revoked_at_ms:
                return pb.RevokeTokenResponse(info=_info(record))
            self._check_not_last(record)
            revoked = msgspec.structs.replace(record, revoked_at_ms=self._now_ms())
            if await self._store.put(entry.key, encode(revoked), expected=entry.modified):
                logger.info("token revoked", extra={"token": record.id, "tenant": record.tenant})
                await self._recorded("token.revoke", record.id)
                return pb.RevokeTokenResponse(info=_info(revoked))
        raise StoreUnavailable("the token changed each time it was to be revoked")

    async def ListAudit(self, request: pb.ListAuditRequest, context: Any) -> pb.ListAuditResponse:  # noqa: N802
        limit = min(request.limit or _AUDIT_ENTRIES, _MOST_AUDIT_ENTRIES)
        found = await audit.latest(self._store, limit)
        return pb.ListAuditResponse(
            entries=[
                pb.AuditEntry(at_ms=one.at_ms, actor=one.actor, action=one.action, target=one.target) for one in found
            ]
        )

    def _check_not_last(self, record: TokenRecord) -> None:
        """Without any admin token the cluster could not be looked after any more. Raises InvalidRequest."""
        if record.role is not Role.ADMIN:
            return
        others = (
            token
            for token in self._views.tokens.values()
            if token.role is Role.ADMIN and not token.revoked_at_ms and token.id != record.id
        )
        if next(others, None) is None:
            raise InvalidRequest(
                "this is the last admin token: make another (`portway-admin token create --role admin`), then revoke "
                "this one with it"
            )

    async def _recorded(self, action: str, target: str) -> None:
        """Write down what was done, and wait until this replica's own view shows it too.

        What was done stays done when the store goes away now: the caller must not be told that it failed.
        """
        who = current_caller.get().name
        note = audit.entry(at_ms=self._now_ms(), actor=who, action=action, target=target)
        try:
            await self._store.write([note])
            listing = await self._store.list(keys.token(target))
            await self._views.tokens.settled(listing.revision)
            await self._views.invitations.settled(listing.revision)
        except StoreUnavailable as error:
            logger.warning("done, but not in the audit: %s of %s by %s (%s)", action, target, who, error)


def _invitation(made: InvitationRecord) -> pb.Invitation:
    return pb.Invitation(
        id=made.id,
        region=made.region,
        node=made.node,
        created_by=made.created_by,
        created_at_ms=made.created_at_ms,
        expires_at_ms=made.expires_at_ms,
        used_at_ms=made.used_at_ms,
        revoked_at_ms=made.revoked_at_ms,
        used_by=made.used_by,
    )


def _info(token: TokenRecord) -> pb.TokenInfo:
    return pb.TokenInfo(
        id=token.id,
        tenant=token.tenant,
        description=token.description,
        role=_ROLE_NUMBERS[token.role],
        max_tunnels=token.max_tunnels,
        created_at_ms=token.created_at_ms,
        revoked_at_ms=token.revoked_at_ms,
    )
