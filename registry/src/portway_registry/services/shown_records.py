"""Records and states as operators are shown them, as messages."""

from typing import Final

from portway_proto.v1 import admin_pb2 as pb
from portway_proto.v1.types_pb2 import DnsRecord

from portway_registry.access.grant_keys import KeyState, KeyStatus
from portway_registry.access.tenants import Tenant
from portway_registry.acme.operator_wishes import CertificateStatus
from portway_registry.nodes.authority_status import AuthorityState, AuthorityStatus
from portway_registry.nodes.front_key import FrontKeyState, FrontKeyStatus
from portway_registry.state.domain_records import StaticRecord
from portway_registry.state.records import InvitationRecord, Role, TokenRecord

_ROLE_NUMBERS: Final = {Role.CLIENT: pb.ROLE_CLIENT, Role.ADMIN: pb.ROLE_ADMIN}
_KEY_STATES: Final = {
    KeyState.ANNOUNCED: pb.GRANT_KEY_STATE_ANNOUNCED,
    KeyState.SIGNING: pb.GRANT_KEY_STATE_SIGNING,
    KeyState.VERIFYING: pb.GRANT_KEY_STATE_VERIFYING,
    KeyState.UNREADABLE: pb.GRANT_KEY_STATE_UNREADABLE,
}
_FRONT_KEY_STATES: Final = {
    FrontKeyState.ANNOUNCED: pb.FRONT_KEY_STATE_ANNOUNCED,
    FrontKeyState.IN_USE: pb.FRONT_KEY_STATE_IN_USE,
    FrontKeyState.ACCEPTED: pb.FRONT_KEY_STATE_ACCEPTED,
}
_AUTHORITY_STATES: Final = {
    AuthorityState.ANNOUNCED: pb.AUTHORITY_STATE_ANNOUNCED,
    AuthorityState.ISSUING: pb.AUTHORITY_STATE_ISSUING,
    AuthorityState.RETIRING: pb.AUTHORITY_STATE_RETIRING,
}


def by_age(record: InvitationRecord | TokenRecord) -> str:
    """A sort key: the oldest first. 13 digits hold milliseconds until the year 2286."""
    return f"{record.created_at_ms:013d}-{record.id}"


def invitation_info(record: InvitationRecord) -> pb.Invitation:
    """An invitation, without its secret."""
    return pb.Invitation(
        id=record.id,
        region=record.region,
        node=record.node,
        created_by=record.created_by,
        created_at_ms=record.created_at_ms,
        expires_at_ms=record.expires_at_ms,
        used_at_ms=record.used_at_ms,
        revoked_at_ms=record.revoked_at_ms,
        used_by=record.used_by,
    )


def grant_key_info(key: KeyStatus) -> pb.GrantKeyInfo:
    """A grant key, without its private half."""
    return pb.GrantKeyInfo(
        id=key.id,
        state=_KEY_STATES[key.state],
        made_at_ms=key.made_at_ms,
        signs_from_ms=key.signs_from_ms,
        used_until_ms=key.used_until_ms,
        early=key.early,
        unaware_nodes=key.unaware_nodes,
        unaware_replicas=key.unaware_replicas,
    )


def front_key_info(key: FrontKeyStatus) -> pb.FrontKeyInfo:
    """A secret of PROXY headers, by its id."""
    return pb.FrontKeyInfo(
        id=key.id,
        state=_FRONT_KEY_STATES[key.state],
        used_from_ms=key.used_from_ms,
        accepted_until_ms=key.accepted_until_ms,
        unaware_replicas=key.unaware_replicas,
    )


def authority_info(one: AuthorityStatus) -> pb.AuthorityInfo:
    """A CA, without its key."""
    return pb.AuthorityInfo(
        id=one.id,
        state=_AUTHORITY_STATES[one.state],
        made_at_ms=one.made_at_ms,
        ends_at_ms=one.ends_at_ms,
        unaware_nodes=one.unaware_nodes,
        unaware_replicas=one.unaware_replicas,
        unaware_away=one.unaware_away,
        unaware_clients_of=one.unaware_clients_of,
        used_by_nodes=one.used_by_nodes,
        used_by_replicas=one.used_by_replicas,
        used_by_away=one.used_by_away,
        away_until_ms=one.away_until_ms,
        from_files=one.from_files,
        certificate=one.certificate,
    )


def certificate_info(one: CertificateStatus) -> pb.ZoneCertificateInfo:
    """A certificate that is obtained, without its key."""
    record = one.record
    return pb.ZoneCertificateInfo(
        zone=record.zone,
        names=one.names,
        directory=record.directory,
        issuer=one.issuer,
        from_ms=record.from_ms,
        until_ms=record.until_ms,
        obtained_at_ms=record.obtained_at_ms,
        renew_at_ms=one.renew_at_ms,
        wanted_at_ms=record.wanted_at_ms,
        revoking=record.revoking is not None,
        failures=record.failures,
        failure=record.failure,
        failed_at_ms=record.failed_at_ms,
        retry_at_ms=record.retry_at_ms,
    )


def tenant_info(tenant: Tenant) -> pb.TenantInfo:
    """A tenant."""
    return pb.TenantInfo(
        name=tenant.name,
        max_tunnels=tenant.max_tunnels,
        is_default=tenant.is_default,
        tunnels=tenant.tunnels,
        tokens=tenant.tokens,
    )


def token_info(record: TokenRecord) -> pb.TokenInfo:
    """A token, without its secret."""
    return pb.TokenInfo(
        id=record.id,
        tenant=record.tenant,
        description=record.description,
        role=_ROLE_NUMBERS[record.role],
        max_tunnels=record.max_tunnels,
        created_at_ms=record.created_at_ms,
        revoked_at_ms=record.revoked_at_ms,
    )


def dns_record(record: StaticRecord) -> DnsRecord:
    """A record that an operator added."""
    return DnsRecord(name=record.name, type=record.type, ttl=record.ttl, data=record.data)
