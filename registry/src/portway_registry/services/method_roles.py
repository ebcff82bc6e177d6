"""The one table of which role may call which method. A method that is not in it cannot be called (interceptor.py)."""

from typing import Final

from portway_registry.state.records import Role

# None: every caller, without authentication. Health/Watch is not here: it would be a stream for everybody.
METHOD_ROLES: Final[dict[str, Role | None]] = {
    "/portway.v1.Discovery/Locate": Role.CLIENT,
    "/portway.v1.Discovery/Renew": Role.CLIENT,
    "/portway.v1.Discovery/Report": Role.CLIENT,
    "/portway.v1.Discovery/Survey": Role.CLIENT,
    "/portway.v1.Enrolment/Join": Role.INVITED,
    "/portway.v1.Mesh/Session": Role.NODE,
    "/portway.v1.Mesh/Resolve": Role.NODE,
    "/portway.v1.Mesh/ResolveMany": Role.NODE,
    "/portway.v1.Mesh/ReservePorts": Role.NODE,
    "/portway.v1.Mesh/RenewCertificate": Role.NODE,
    "/portway.v1.Admin/ListNodes": Role.ADMIN,
    "/portway.v1.Admin/GetNode": Role.ADMIN,
    "/portway.v1.Admin/OrderNode": Role.ADMIN,
    "/portway.v1.Admin/InviteNode": Role.ADMIN,
    "/portway.v1.Admin/ListInvitations": Role.ADMIN,
    "/portway.v1.Admin/RevokeInvitation": Role.ADMIN,
    "/portway.v1.Admin/WatchNodes": Role.ADMIN,
    "/portway.v1.Admin/ListTunnels": Role.ADMIN,
    "/portway.v1.Admin/GetTunnel": Role.ADMIN,
    "/portway.v1.Admin/WatchTunnels": Role.ADMIN,
    "/portway.v1.Admin/CreateToken": Role.ADMIN,
    "/portway.v1.Admin/ListTokens": Role.ADMIN,
    "/portway.v1.Admin/RevokeToken": Role.ADMIN,
    "/portway.v1.Admin/ListTenants": Role.ADMIN,
    "/portway.v1.Admin/SetTenantQuota": Role.ADMIN,
    "/portway.v1.Admin/ListAudit": Role.ADMIN,
    "/portway.v1.Admin/ListGrantKeys": Role.ADMIN,
    "/portway.v1.Admin/RotateGrantKey": Role.ADMIN,
    "/portway.v1.Admin/RetireGrantKey": Role.ADMIN,
    "/portway.v1.Admin/ListAuthorities": Role.ADMIN,
    "/portway.v1.Admin/RotateAuthority": Role.ADMIN,
    "/portway.v1.Admin/RetireAuthority": Role.ADMIN,
    "/portway.v1.Admin/ListDnsRecords": Role.ADMIN,
    "/portway.v1.Admin/AddDnsRecord": Role.ADMIN,
    "/portway.v1.Admin/RemoveDnsRecords": Role.ADMIN,
    "/portway.v1.Admin/ListZoneCertificates": Role.ADMIN,
    "/portway.v1.Admin/RenewZoneCertificate": Role.ADMIN,
    "/portway.v1.Admin/RevokeZoneCertificate": Role.ADMIN,
    "/grpc.health.v1.Health/Check": None,
    "/grpc.health.v1.Health/List": None,
}
