"""Calls of an admin to the registry, one line each."""

from dataclasses import dataclass, field
from pathlib import Path

import grpc
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_proto.v1.types_pb2 import DnsRecord, NodeInfo, TunnelInfo
from portway_runtime.grpc_channels import NO_PROXY_OF_ITS_OWN, OWN_CONNECTIONS

from portway_testkit.waiting import PATIENCE

TIMEOUT = PATIENCE


@dataclass(frozen=True, slots=True)
class AdminCalls:
    """Blocking calls, each on a channel of its own."""

    address: str
    ca: Path
    token: str = field(repr=False)

    def create_token(self, request: admin_pb2.CreateTokenRequest) -> str:
        """Create a token; returns it in full."""
        with self._channel() as channel:
            answer = AdminStub(channel).CreateToken(request, timeout=TIMEOUT, metadata=self._metadata)
            return answer.token

    def revoke_token(self, token: str) -> None:
        request = admin_pb2.RevokeTokenRequest(id=token.split("_")[1])
        with self._channel() as channel:
            AdminStub(channel).RevokeToken(request, timeout=TIMEOUT, metadata=self._metadata)

    def set_quota(self, tenant: str, max_tunnels: int) -> None:
        with self._channel() as channel:
            request = admin_pb2.SetTenantQuotaRequest(name=tenant, max_tunnels=max_tunnels)
            AdminStub(channel).SetTenantQuota(request, timeout=TIMEOUT, metadata=self._metadata)

    def renew_certificate(self, zone: str) -> None:
        """Order another certificate of a zone."""
        with self._channel() as channel:
            request = admin_pb2.RenewZoneCertificateRequest(zone=zone)
            AdminStub(channel).RenewZoneCertificate(request, timeout=TIMEOUT, metadata=self._metadata)

    def tunnels(self) -> list[TunnelInfo]:
        with self._channel() as channel:
            request = admin_pb2.ListTunnelsRequest()
            return list(AdminStub(channel).ListTunnels(request, timeout=TIMEOUT, metadata=self._metadata).tunnels)

    def nodes(self) -> list[NodeInfo]:
        with self._channel() as channel:
            request = admin_pb2.ListNodesRequest()
            return list(AdminStub(channel).ListNodes(request, timeout=TIMEOUT, metadata=self._metadata).nodes)

    def health(self) -> admin_pb2.GetHealthResponse:
        """What the registry says of itself and the cluster."""
        with self._channel() as channel:
            return AdminStub(channel).GetHealth(admin_pb2.GetHealthRequest(), timeout=TIMEOUT, metadata=self._metadata)

    def order(self, node: str, order: "admin_pb2.NodeOrder.ValueType") -> None:
        """Give a node an order: cordon, drain, remove or serve."""
        with self._channel() as channel:
            request = admin_pb2.OrderNodeRequest(name=node, order=order)
            AdminStub(channel).OrderNode(request, timeout=TIMEOUT, metadata=self._metadata)

    def add_dns_record(self, name: str, kind: str, data: str) -> DnsRecord:
        with self._channel() as channel:
            request = admin_pb2.AddDnsRecordRequest(record=DnsRecord(name=name, type=kind, data=data))
            return AdminStub(channel).AddDnsRecord(request, timeout=TIMEOUT, metadata=self._metadata).record

    def remove_dns_records(self, name: str, kind: str) -> None:
        with self._channel() as channel:
            request = admin_pb2.RemoveDnsRecordsRequest(name=name, type=kind)
            AdminStub(channel).RemoveDnsRecords(request, timeout=TIMEOUT, metadata=self._metadata)

    def invite(self, request: admin_pb2.InviteNodeRequest) -> admin_pb2.InviteNodeResponse:
        with self._channel() as channel:
            return AdminStub(channel).InviteNode(request, timeout=TIMEOUT, metadata=self._metadata)

    def invitations(self, *, over: bool = False) -> list[admin_pb2.Invitation]:
        with self._channel() as channel:
            request = admin_pb2.ListInvitationsRequest(include_over=over)
            answer = AdminStub(channel).ListInvitations(request, timeout=TIMEOUT, metadata=self._metadata)
            return list(answer.invitations)

    def revoke_invitation(self, invitation_id: str) -> None:
        with self._channel() as channel:
            request = admin_pb2.RevokeInvitationRequest(id=invitation_id)
            AdminStub(channel).RevokeInvitation(request, timeout=TIMEOUT, metadata=self._metadata)

    def grant_keys(self) -> dict[str, admin_pb2.GrantKeyInfo]:
        """The keys that sign grants, by their ids."""
        with self._channel() as channel:
            request = admin_pb2.ListGrantKeysRequest()
            answer = AdminStub(channel).ListGrantKeys(request, timeout=TIMEOUT, metadata=self._metadata)
            return {one.id: one for one in answer.keys}

    def rotate_grant_key(self) -> admin_pb2.GrantKeyInfo:
        with self._channel() as channel:
            request = admin_pb2.RotateGrantKeyRequest()
            return AdminStub(channel).RotateGrantKey(request, timeout=TIMEOUT, metadata=self._metadata).key

    def retire_grant_key(self, kid: str, *, force: bool = False) -> None:
        with self._channel() as channel:
            request = admin_pb2.RetireGrantKeyRequest(id=kid, force=force)
            AdminStub(channel).RetireGrantKey(request, timeout=TIMEOUT, metadata=self._metadata)

    def front_keys(self) -> list[admin_pb2.FrontKeyInfo]:
        """The secrets of PROXY headers, the one in use first."""
        with self._channel() as channel:
            request = admin_pb2.ListFrontKeysRequest()
            return list(AdminStub(channel).ListFrontKeys(request, timeout=TIMEOUT, metadata=self._metadata).keys)

    def rotate_front_key(self, *, force: bool = False) -> admin_pb2.FrontKeyInfo:
        with self._channel() as channel:
            request = admin_pb2.RotateFrontKeyRequest(force=force)
            return AdminStub(channel).RotateFrontKey(request, timeout=TIMEOUT, metadata=self._metadata).key

    def authorities(self) -> list[admin_pb2.AuthorityInfo]:
        """The cluster's CAs, the one that issues first."""
        with self._channel() as channel:
            request = admin_pb2.ListAuthoritiesRequest()
            answer = AdminStub(channel).ListAuthorities(request, timeout=TIMEOUT, metadata=self._metadata)
            return list(answer.authorities)

    def rotate_authority(self, *, force: bool = False) -> admin_pb2.AuthorityInfo:
        with self._channel() as channel:
            request = admin_pb2.RotateAuthorityRequest(force=force)
            return AdminStub(channel).RotateAuthority(request, timeout=TIMEOUT, metadata=self._metadata).authority

    def retire_authority(self, authority: str, *, force: bool = False) -> None:
        with self._channel() as channel:
            request = admin_pb2.RetireAuthorityRequest(id=authority, force=force)
            AdminStub(channel).RetireAuthority(request, timeout=TIMEOUT, metadata=self._metadata)

    def audited(self) -> list[tuple[str, str]]:
        """Action and target of each audit entry, newest first."""
        with self._channel() as channel:
            request = admin_pb2.ListAuditRequest()
            entries = AdminStub(channel).ListAudit(request, timeout=TIMEOUT, metadata=self._metadata).entries
            return [(one.action, one.target) for one in entries]

    def failed_from(self) -> set[str]:
        """Where the failed authentications in the audit came from."""
        with self._channel() as channel:
            request = admin_pb2.ListAuditRequest()
            entries = AdminStub(channel).ListAudit(request, timeout=TIMEOUT, metadata=self._metadata).entries
            return {one.actor for one in entries if one.action == "authentication.failed"}

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),)

    def _channel(self) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(self.ca.read_bytes())
        return grpc.secure_channel(self.address, credentials, options=(*OWN_CONNECTIONS, *NO_PROXY_OF_ITS_OWN))
