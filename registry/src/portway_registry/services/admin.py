"""The Admin service, which operators call: nodes, invitations, tunnels, tokens, tenants, keys, CAs, certificates,
audit."""

from typing import Any, Final

from portway_proto.v1 import admin_pb2 as pb
from portway_proto.v1.admin_pb2_grpc import AdminServicer
from portway_proto.v1.types_pb2 import NodeInfo, TunnelInfo

from portway_registry.access.grant_keys import GrantKeys
from portway_registry.access.invitations import Invitations
from portway_registry.access.tenants import Tenants
from portway_registry.access.tokens import Tokens
from portway_registry.acme.operator_wishes import OperatorWishes
from portway_registry.dns.static_records import StaticRecords
from portway_registry.errors import InvalidRequest, NotFound, NotYet
from portway_registry.nodes.authority_rotation import AuthorityRotation
from portway_registry.nodes.front_key import FrontKey
from portway_registry.nodes.operator_orders import OperatorOrders
from portway_registry.services.callers import current_caller
from portway_registry.services.health import Health
from portway_registry.services.pages import page
from portway_registry.services.shown_records import (
    authority_info,
    by_age,
    certificate_info,
    dns_record,
    front_key_info,
    grant_key_info,
    invitation_info,
    tenant_info,
    token_info,
)
from portway_registry.services.view_stream import stream_view
from portway_registry.state.audit import Audit
from portway_registry.state.records import Order, Role
from portway_registry.state.views import Item, Views

_PAGE_SIZE: Final = 500
_MAX_PAGE_SIZE: Final = 5000  # some 1.5 MB of tunnels
_AUDIT_ENTRIES: Final = 100
_MAX_AUDIT_ENTRIES: Final = 1000

_ROLES: Final = {pb.ROLE_CLIENT: Role.CLIENT, pb.ROLE_ADMIN: Role.ADMIN}
_ORDERS: Final[dict[int, Order | None]] = {
    pb.NODE_ORDER_SERVE: None,
    pb.NODE_ORDER_CORDON: Order.CORDON,
    pb.NODE_ORDER_DRAIN: Order.DRAIN,
    pb.NODE_ORDER_REMOVE: Order.REMOVE,
}


class Admin(AdminServicer):
    """Lists are answered from memory; a change is in the store before it is answered."""

    def __init__(
        self,
        views: Views,
        orders: OperatorOrders,
        tokens: Tokens,
        tenants: Tenants,
        invitations: Invitations,
        grant_keys: GrantKeys,
        front_key: FrontKey,
        rotation: AuthorityRotation,
        audit: Audit,
        dns: StaticRecords,
        certificates: OperatorWishes | None,
        health: Health,
    ) -> None:
        """certificates: None when this registry obtains none."""
        self._views = views
        self._dns = dns
        self._orders = orders
        self._tokens = tokens
        self._tenants = tenants
        self._invitations = invitations
        self._grant_keys = grant_keys
        self._front_key = front_key
        self._rotation = rotation
        self._audit = audit
        self._certificates = certificates
        self._health = health

    async def ListNodes(self, request: pb.ListNodesRequest, context: Any) -> pb.ListNodesResponse:  # noqa: N802
        found = {node.name: node for node in self._views.nodes.values() if request.region in ("", node.region)}
        nodes, next_page = page(found, _unchanged, after=request.page_token)
        wanting = () if self._certificates is None or request.page_token else self._certificates.failures()
        return pb.ListNodesResponse(nodes=nodes, next_page_token=next_page, certificate_failures=wanting)

    async def GetNode(self, request: pb.GetNodeRequest, context: Any) -> pb.GetNodeResponse:  # noqa: N802
        node = self._views.nodes.get(request.name)
        if node is None:
            raise NotFound(f"no node {request.name!r} is known: see `portway-admin node list`")
        return pb.GetNodeResponse(node=node)

    async def OrderNode(self, request: pb.OrderNodeRequest, context: Any) -> pb.OrderNodeResponse:  # noqa: N802
        if request.order not in _ORDERS:
            raise InvalidRequest("an order is serve, cordon, drain or remove")
        await self._orders.give(request.name, _ORDERS[request.order], by=current_caller.get().name)
        return pb.OrderNodeResponse()

    async def InviteNode(self, request: pb.InviteNodeRequest, context: Any) -> pb.InviteNodeResponse:  # noqa: N802
        record, token = await self._invitations.create(
            region=request.region, node=request.node, ttl=request.ttl_seconds, by=current_caller.get().name
        )
        return pb.InviteNodeResponse(invitation=invitation_info(record), token=token)

    async def ListInvitations(  # noqa: N802
        self, request: pb.ListInvitationsRequest, context: Any
    ) -> pb.ListInvitationsResponse:
        found = {by_age(one): one for one in self._invitations.find(over=request.include_over)}
        invitations, next_page = page(found, invitation_info, after=request.page_token)
        return pb.ListInvitationsResponse(invitations=invitations, next_page_token=next_page)

    async def RevokeInvitation(  # noqa: N802
        self, request: pb.RevokeInvitationRequest, context: Any
    ) -> pb.RevokeInvitationResponse:
        revoked = await self._invitations.revoke(request.id, by=current_caller.get().name)
        return pb.RevokeInvitationResponse(invitation=invitation_info(revoked))

    async def WatchNodes(self, request: pb.WatchNodesRequest, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        def message(kind: pb.ChangeKind.ValueType, node: NodeInfo | None) -> pb.WatchNodesResponse:
            return pb.WatchNodesResponse(kind=kind, node=node)

        await stream_view(self._views.nodes, message, context.write)

    async def ListTunnels(self, request: pb.ListTunnelsRequest, context: Any) -> pb.ListTunnelsResponse:  # noqa: N802
        size = min(request.page_size or _PAGE_SIZE, _MAX_PAGE_SIZE)
        view = self._views.tunnels
        found = view.of_tenant(request.tenant) if request.tenant else view.items
        if request.node:
            found = {label: item for label, item in view.of_node(request.node).items() if label in found}
        tunnels, next_page = page(found, _listed, after=request.page_token, size=size)
        return pb.ListTunnelsResponse(tunnels=tunnels, next_page_token=next_page)

    async def GetTunnel(self, request: pb.GetTunnelRequest, context: Any) -> pb.GetTunnelResponse:  # noqa: N802
        tunnel = self._views.tunnels.get(request.label)
        if tunnel is None:
            raise NotFound("no tunnel with this label is open: see `portway-admin tunnel list`")
        return pb.GetTunnelResponse(tunnel=_for_people(tunnel), node=self._views.nodes.get(tunnel.node))

    async def WatchTunnels(self, request: pb.WatchTunnelsRequest, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        def message(kind: pb.ChangeKind.ValueType, tunnel: TunnelInfo | None) -> pb.WatchTunnelsResponse:
            return pb.WatchTunnelsResponse(kind=kind, tunnel=None if tunnel is None else _for_people(tunnel))

        await stream_view(self._views.tunnels, message, context.write)

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Any) -> pb.CreateTokenResponse:  # noqa: N802
        role = _ROLES.get(request.role)
        if role is None:
            raise InvalidRequest("role must be client or admin")
        self._tenants.demand_within(request.tenant, request.max_tunnels)
        made = await self._tokens.create(
            tenant=request.tenant,
            role=role,
            description=request.description,
            max_tunnels=request.max_tunnels,
            by=current_caller.get().name,
        )
        return pb.CreateTokenResponse(info=token_info(made.record), token=made.text)

    async def ListTokens(self, request: pb.ListTokensRequest, context: Any) -> pb.ListTokensResponse:  # noqa: N802
        found = {by_age(one): one for one in self._tokens.find(tenant=request.tenant, revoked=request.include_revoked)}
        tokens, next_page = page(found, token_info, after=request.page_token)
        return pb.ListTokensResponse(tokens=tokens, next_page_token=next_page)

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Any) -> pb.RevokeTokenResponse:  # noqa: N802
        revoked = await self._tokens.revoke(request.id, by=current_caller.get().name)
        return pb.RevokeTokenResponse(info=token_info(revoked))

    async def ListTenants(self, request: pb.ListTenantsRequest, context: Any) -> pb.ListTenantsResponse:  # noqa: N802
        tenants, next_page = page(self._tenants.all(), tenant_info, after=request.page_token)
        return pb.ListTenantsResponse(tenants=tenants, next_page_token=next_page)

    async def SetTenantQuota(  # noqa: N802
        self, request: pb.SetTenantQuotaRequest, context: Any
    ) -> pb.SetTenantQuotaResponse:
        tenant = await self._tenants.set_quota(request.name, request.max_tunnels, by=current_caller.get().name)
        return pb.SetTenantQuotaResponse(tenant=tenant_info(tenant))

    async def ListDnsRecords(  # noqa: N802
        self, request: pb.ListDnsRecordsRequest, context: Any
    ) -> pb.ListDnsRecordsResponse:
        board = self._dns.board
        found = [pb.ListedDnsRecord(record=one.record, source=one.source) for one in board.listed()]
        return pb.ListDnsRecordsResponse(records=found, domain=board.domain, registry_name=board.registry_name)

    async def AddDnsRecord(  # noqa: N802
        self, request: pb.AddDnsRecordRequest, context: Any
    ) -> pb.AddDnsRecordResponse:
        added = await self._dns.add(request.record, by=current_caller.get().name)
        return pb.AddDnsRecordResponse(record=dns_record(added))

    async def RemoveDnsRecords(  # noqa: N802
        self, request: pb.RemoveDnsRecordsRequest, context: Any
    ) -> pb.RemoveDnsRecordsResponse:
        caller = current_caller.get().name
        removed = await self._dns.remove(request.name, request.type, request.data, by=caller)
        return pb.RemoveDnsRecordsResponse(removed=map(dns_record, removed))

    async def ListAudit(self, request: pb.ListAuditRequest, context: Any) -> pb.ListAuditResponse:  # noqa: N802
        size = min(request.page_size or _AUDIT_ENTRIES, _MAX_AUDIT_ENTRIES)
        found, next_page = await self._audit.page(size, after=request.page_token)
        return pb.ListAuditResponse(
            entries=[
                pb.AuditEntry(at_ms=one.at_ms, actor=one.actor, action=one.action, target=one.target) for one in found
            ],
            next_page_token=next_page,
        )

    async def ListGrantKeys(  # noqa: N802
        self, request: pb.ListGrantKeysRequest, context: Any
    ) -> pb.ListGrantKeysResponse:
        found, next_page = page(self._grant_keys.all(), grant_key_info, after=request.page_token)
        return pb.ListGrantKeysResponse(keys=found, next_page_token=next_page)

    async def RotateGrantKey(  # noqa: N802
        self, request: pb.RotateGrantKeyRequest, context: Any
    ) -> pb.RotateGrantKeyResponse:
        key = await self._grant_keys.rotate(by=current_caller.get().name)
        return pb.RotateGrantKeyResponse(key=grant_key_info(key))

    async def RetireGrantKey(  # noqa: N802
        self, request: pb.RetireGrantKeyRequest, context: Any
    ) -> pb.RetireGrantKeyResponse:
        key = await self._grant_keys.retire(request.id, force=request.force, by=current_caller.get().name)
        return pb.RetireGrantKeyResponse(key=grant_key_info(key), signing_id=self._grant_keys.signing_id())

    async def ListFrontKeys(  # noqa: N802
        self, request: pb.ListFrontKeysRequest, context: Any
    ) -> pb.ListFrontKeysResponse:
        return pb.ListFrontKeysResponse(keys=map(front_key_info, self._front_key.all()))

    async def RotateFrontKey(  # noqa: N802
        self, request: pb.RotateFrontKeyRequest, context: Any
    ) -> pb.RotateFrontKeyResponse:
        key = await self._front_key.rotate(force=request.force, by=current_caller.get().name)
        return pb.RotateFrontKeyResponse(key=front_key_info(key))

    async def ListAuthorities(  # noqa: N802
        self, request: pb.ListAuthoritiesRequest, context: Any
    ) -> pb.ListAuthoritiesResponse:
        found, next_page = page(self._rotation.all(), authority_info, after=request.page_token)
        return pb.ListAuthoritiesResponse(authorities=found, next_page_token=next_page)

    async def RotateAuthority(  # noqa: N802
        self, request: pb.RotateAuthorityRequest, context: Any
    ) -> pb.RotateAuthorityResponse:
        found = await self._rotation.rotate(force=request.force, by=current_caller.get().name)
        return pb.RotateAuthorityResponse(authority=authority_info(found))

    async def RetireAuthority(  # noqa: N802
        self, request: pb.RetireAuthorityRequest, context: Any
    ) -> pb.RetireAuthorityResponse:
        found = await self._rotation.retire(request.id, force=request.force, by=current_caller.get().name)
        return pb.RetireAuthorityResponse(authority=authority_info(found))

    async def ListZoneCertificates(  # noqa: N802
        self, request: pb.ListZoneCertificatesRequest, context: Any
    ) -> pb.ListZoneCertificatesResponse:
        found, next_page = page(self._obtained().all(), certificate_info, after=request.page_token)
        return pb.ListZoneCertificatesResponse(certificates=found, next_page_token=next_page)

    async def RenewZoneCertificate(  # noqa: N802
        self, request: pb.RenewZoneCertificateRequest, context: Any
    ) -> pb.RenewZoneCertificateResponse:
        found = await self._obtained().renew(request.zone, by=current_caller.get().name)
        return pb.RenewZoneCertificateResponse(certificate=certificate_info(found))

    async def RevokeZoneCertificate(  # noqa: N802
        self, request: pb.RevokeZoneCertificateRequest, context: Any
    ) -> pb.RevokeZoneCertificateResponse:
        found = await self._obtained().revoke(
            request.zone, reason=request.reason, first=request.first, by=current_caller.get().name
        )
        return pb.RevokeZoneCertificateResponse(certificate=certificate_info(found))

    def _obtained(self) -> OperatorWishes:
        if self._certificates is None:
            raise NotYet("this registry obtains no certificates: --acme-directory names an ACME server to it")
        return self._certificates

    async def GetHealth(self, request: pb.GetHealthRequest, context: Any) -> pb.GetHealthResponse:  # noqa: N802
        return await self._health.report()

    async def NoteBackup(self, request: pb.NoteBackupRequest, context: Any) -> pb.NoteBackupResponse:  # noqa: N802
        noted = await self._health.note_backup(request.by, actor=current_caller.get().name)
        return pb.NoteBackupResponse(backup=noted)


def _unchanged(node: NodeInfo) -> NodeInfo:
    return node


def _listed(item: Item[TunnelInfo]) -> TunnelInfo:
    return _for_people(item.value)


def _for_people(tunnel: TunnelInfo) -> TunnelInfo:
    """A copy without what only nodes use, which is most of its bytes."""
    shown = TunnelInfo()
    shown.CopyFrom(tunnel)
    shown.ClearField("claim")
    shown.ClearField("ticket")
    return shown
