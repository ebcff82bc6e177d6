"""Text that nodes and registries chose: what of it reaches programs, terminals and logs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from click.testing import CliRunner
from portway_proto.v1 import admin_pb2, admin_pb2_grpc, lane_pb2, types_pb2
from portway_registry.admin_cli.cli import main
from portway_testkit.authority import tls_of
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry

# The node, the registry and their sockets are on threads of this process; the client is a process of its own.
pytestmark = pytest.mark.shares_sockets

# Clears the screen (C0 and C1), ends the line, begins another one, and writes from right to left.
STEERING = "\x1b[2J\x9b2J\r\n2026-01-01 ERROR forged\u2028\x7f\u202e"
TOKEN = "pw_test_secret"


@pytest.fixture
def registry(authority: trustme.CA, hostile: FakeNode) -> Iterator[FakeRegistry]:
    with FakeRegistry(authority, [hostile]) as registry:
        yield registry


class Portway:
    """The command `portway` as a process; what is still running is killed."""

    def __init__(self, registry: FakeRegistry, ca: Path) -> None:
        self._environment = {
            "PORTWAY_REGISTRY": registry.address,
            "PORTWAY_TOKEN": TOKEN,
            "PORTWAY_CA": str(ca),
            "PYTHONUTF8": "1",
        }
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "portway", *arguments]
        environment = os.environ | self._environment
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._running.append(process)
        return process

    def run(self, *arguments: str) -> tuple[str, str, int]:
        """What it printed to both outputs, and its exit code."""
        process = self.start(*arguments)
        out, errors = process.communicate(timeout=30)
        return out.decode(), errors.decode(), process.returncode

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()


@pytest.fixture
def portway(registry: FakeRegistry, authority: trustme.CA, tmp_path: Path) -> Iterator[Portway]:
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    command = Portway(registry, ca)
    yield command
    command.close()


def fit_for_a_terminal(text: str) -> bool:
    """Whether a terminal shows lines and does nothing else; none of them begins as the forged one does."""
    lines = text.split("\n")
    return all(line.isprintable() and not line.startswith("2026-01-01") for line in lines)


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize(
    "host",
    [
        f"x.test.localhost{STEERING}",
        "login.evil.example",
        "aaaaaaaaaaaaaaaa.test.localhost",
        "@evil.example/",
    ],
    ids=["control characters", "another domain", "another label", "a URL of its own"],
)
def test_a_node_cannot_choose_the_address_that_is_printed(
    portway: Portway, registry: FakeRegistry, hostile: FakeNode, honest: FakeNode, host: str, form: tuple[str, ...]
) -> None:
    """The client leaves the node, which broke the protocol, for another one, whose address is printed."""
    hostile.host_in_bound = host
    process = portway.start("forward", "8000", *form)
    hostile.wait(lambda: hostile.count("hello") > 0)
    registry.nodes.append(honest)
    assert process.stdout is not None
    line = process.stdout.readline().decode().removesuffix("\n")
    (label,) = honest.tunnels
    url = f"https://{label}.test.localhost:{honest.port}"
    assert (json.loads(line)["url"] if form else line) == url
    process.terminate()
    out, errors = process.communicate(timeout=20)
    assert out == b""
    assert fit_for_a_terminal(errors.decode())
    assert b"broke the protocol: BOUND with an address that is not this tunnel's" in errors


def test_a_node_s_reasons_control_no_terminal(portway: Portway, hostile: FakeNode) -> None:
    """The error of a refused tunnel is one line."""
    hostile.refuse_bind = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_QUOTA, message=f"no more{STEERING}")
    out, errors, code = portway.run("forward", "8000")
    assert (out, code) == ("", 5)
    assert "no more" in errors
    assert fit_for_a_terminal(errors)


def test_a_registry_s_reasons_control_no_terminal(portway: Portway, registry: FakeRegistry) -> None:
    """Neither those that end the search, nor those that are listed with the other registries'."""
    registry.refuse = (grpc.StatusCode.PERMISSION_DENIED, f"not you{STEERING}")
    out, errors, code = portway.run("forward", "8000")
    assert (out, code) == ("", 4)
    assert "not you" in errors
    assert fit_for_a_terminal(errors)
    registry.refuse = (grpc.StatusCode.INTERNAL, f"broken{STEERING}")
    out, errors, code = portway.run("forward", "8000")
    assert (out, code) == ("", 6)
    assert "broken" in errors
    assert fit_for_a_terminal(errors)


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_netcheck_lists_only_what_can_be_a_node(
    portway: Portway, registry: FakeRegistry, hostile: FakeNode, honest: FakeNode, form: tuple[str, ...]
) -> None:
    """A name or a region of another form comes from a registry that does not check what nodes say."""
    registry.nodes.append(honest)
    hostile.region = f"test{STEERING}"
    out, errors, code = portway.run("netcheck", *form)
    assert code == 0
    assert "honest" in out
    assert "hostile" not in out
    assert fit_for_a_terminal(out)
    assert fit_for_a_terminal(errors)


class HostileAdmin(admin_pb2_grpc.AdminServicer):
    """A registry's Admin service whose every text steers the terminal."""

    def ListNodes(self, request: Any, context: Any) -> admin_pb2.ListNodesResponse:
        return admin_pb2.ListNodesResponse(nodes=[self._node()], certificate_failures=[STEERING])

    def GetNode(self, request: Any, context: Any) -> admin_pb2.GetNodeResponse:
        return admin_pb2.GetNodeResponse(node=self._node())

    def ListTunnels(self, request: Any, context: Any) -> admin_pb2.ListTunnelsResponse:
        return admin_pb2.ListTunnelsResponse(tunnels=[self._tunnel()])

    def ListAudit(self, request: Any, context: Any) -> admin_pb2.ListAuditResponse:
        entry = admin_pb2.AuditEntry(actor=STEERING, action=STEERING, target=STEERING)
        return admin_pb2.ListAuditResponse(entries=[entry])

    def ListTokens(self, request: Any, context: Any) -> admin_pb2.ListTokensResponse:
        token = admin_pb2.TokenInfo(id=STEERING, tenant=STEERING, description=STEERING)
        return admin_pb2.ListTokensResponse(tokens=[token])

    def CreateToken(self, request: Any, context: Any) -> admin_pb2.CreateTokenResponse:
        return admin_pb2.CreateTokenResponse(token=STEERING, info=admin_pb2.TokenInfo(id=STEERING))

    def RevokeToken(self, request: Any, context: Any) -> admin_pb2.RevokeTokenResponse:
        return admin_pb2.RevokeTokenResponse(info=admin_pb2.TokenInfo(id=STEERING, tenant=STEERING))

    def ListTenants(self, request: Any, context: Any) -> admin_pb2.ListTenantsResponse:
        return admin_pb2.ListTenantsResponse(tenants=[admin_pb2.TenantInfo(name=STEERING)])

    def SetTenantQuota(self, request: Any, context: Any) -> admin_pb2.SetTenantQuotaResponse:
        return admin_pb2.SetTenantQuotaResponse(tenant=admin_pb2.TenantInfo(name=STEERING))

    def ListInvitations(self, request: Any, context: Any) -> admin_pb2.ListInvitationsResponse:
        return admin_pb2.ListInvitationsResponse(invitations=[admin_pb2.Invitation(id=STEERING, region=STEERING)])

    def RevokeInvitation(self, request: Any, context: Any) -> admin_pb2.RevokeInvitationResponse:
        return admin_pb2.RevokeInvitationResponse(invitation=admin_pb2.Invitation(id=STEERING))

    def InviteNode(self, request: Any, context: Any) -> admin_pb2.InviteNodeResponse:
        return admin_pb2.InviteNodeResponse(token=STEERING, invitation=admin_pb2.Invitation(id=STEERING, node=STEERING))

    def ListGrantKeys(self, request: Any, context: Any) -> admin_pb2.ListGrantKeysResponse:
        return admin_pb2.ListGrantKeysResponse(keys=[self._grant_key()])

    def RotateGrantKey(self, request: Any, context: Any) -> admin_pb2.RotateGrantKeyResponse:
        return admin_pb2.RotateGrantKeyResponse(key=self._grant_key())

    def RetireGrantKey(self, request: Any, context: Any) -> admin_pb2.RetireGrantKeyResponse:
        return admin_pb2.RetireGrantKeyResponse(key=self._grant_key(), signing_id=STEERING)

    def ListFrontKeys(self, request: Any, context: Any) -> admin_pb2.ListFrontKeysResponse:
        return admin_pb2.ListFrontKeysResponse(keys=[self._front_key()])

    def RotateFrontKey(self, request: Any, context: Any) -> admin_pb2.RotateFrontKeyResponse:
        return admin_pb2.RotateFrontKeyResponse(key=self._front_key())

    def ListAuthorities(self, request: Any, context: Any) -> admin_pb2.ListAuthoritiesResponse:
        return admin_pb2.ListAuthoritiesResponse(authorities=[self._authority()])

    def RotateAuthority(self, request: Any, context: Any) -> admin_pb2.RotateAuthorityResponse:
        return admin_pb2.RotateAuthorityResponse(authority=self._authority())

    def RetireAuthority(self, request: Any, context: Any) -> admin_pb2.RetireAuthorityResponse:
        return admin_pb2.RetireAuthorityResponse(authority=self._authority())

    def ListDnsRecords(self, request: Any, context: Any) -> admin_pb2.ListDnsRecordsResponse:
        listed = admin_pb2.ListedDnsRecord(record=self._dns_record(), source=admin_pb2.DNS_RECORD_SOURCE_OPERATOR)
        return admin_pb2.ListDnsRecordsResponse(records=[listed], domain=STEERING, registry_name=STEERING)

    def AddDnsRecord(self, request: Any, context: Any) -> admin_pb2.AddDnsRecordResponse:
        return admin_pb2.AddDnsRecordResponse(record=self._dns_record())

    def RemoveDnsRecords(self, request: Any, context: Any) -> admin_pb2.RemoveDnsRecordsResponse:
        return admin_pb2.RemoveDnsRecordsResponse(removed=[self._dns_record()])

    def ListZoneCertificates(self, request: Any, context: Any) -> admin_pb2.ListZoneCertificatesResponse:
        return admin_pb2.ListZoneCertificatesResponse(certificates=[self._certificate()])

    def RenewZoneCertificate(self, request: Any, context: Any) -> admin_pb2.RenewZoneCertificateResponse:
        context.abort(grpc.StatusCode.NOT_FOUND, f"no such zone{STEERING}")
        raise AssertionError("abort raises")

    def RevokeZoneCertificate(self, request: Any, context: Any) -> admin_pb2.RevokeZoneCertificateResponse:
        """Of the list's, which says then that it failed."""
        before = admin_pb2.ZoneCertificateInfo(zone=STEERING)
        return admin_pb2.RevokeZoneCertificateResponse(certificate=before)

    def GetHealth(self, request: Any, context: Any) -> admin_pb2.GetHealthResponse:
        return admin_pb2.GetHealthResponse(
            version=STEERING,
            domain=STEERING,
            replicas=[admin_pb2.ReplicaHealth(id=STEERING, version=STEERING)],
            certificates=[admin_pb2.CertificateHealth(name=STEERING, end_s=1, remedy=STEERING)],
            store=admin_pb2.StoreHealth(
                kind=STEERING,
                failure=STEERING,
                members=[admin_pb2.StoreMember(name=STEERING, endpoint=STEERING, failure=STEERING, alarms=[STEERING])],
            ),
            geoip=admin_pb2.GeoIpHealth(file=STEERING),
            backup=admin_pb2.BackupInfo(at_ms=1, by=STEERING),
        )

    def NoteBackup(self, request: Any, context: Any) -> admin_pb2.NoteBackupResponse:
        return admin_pb2.NoteBackupResponse(backup=admin_pb2.BackupInfo(at_ms=1, by=STEERING))

    def WatchNodes(self, request: Any, context: Any) -> Iterator[admin_pb2.WatchNodesResponse]:
        yield admin_pb2.WatchNodesResponse(kind=admin_pb2.CHANGE_KIND_ADDED, node=self._node())

    def GetTunnel(self, request: Any, context: Any) -> admin_pb2.GetTunnelResponse:
        return admin_pb2.GetTunnelResponse(tunnel=self._tunnel(), node=self._node())

    def WatchTunnels(self, request: Any, context: Any) -> Iterator[admin_pb2.WatchTunnelsResponse]:
        yield admin_pb2.WatchTunnelsResponse(kind=admin_pb2.CHANGE_KIND_ADDED, tunnel=self._tunnel())

    def OrderNode(self, request: Any, context: Any) -> admin_pb2.OrderNodeResponse:
        context.abort(grpc.StatusCode.NOT_FOUND, f"no such node{STEERING}")
        raise AssertionError("abort raises")

    @staticmethod
    def _dns_record() -> types_pb2.DnsRecord:
        return types_pb2.DnsRecord(name=STEERING, type=STEERING, data=STEERING)

    @staticmethod
    def _authority() -> admin_pb2.AuthorityInfo:
        return admin_pb2.AuthorityInfo(
            id=STEERING,
            unaware_nodes=[STEERING],
            unaware_replicas=[STEERING],
            unaware_clients_of=[STEERING],
            used_by_nodes=[STEERING],
            used_by_away=[STEERING],
            certificate=STEERING.encode(),
        )

    @staticmethod
    def _certificate() -> admin_pb2.ZoneCertificateInfo:
        return admin_pb2.ZoneCertificateInfo(
            zone=STEERING,
            names=[STEERING],
            directory=STEERING,
            issuer=STEERING,
            failures=1,
            failure=STEERING,
            failed_at_ms=1,
        )

    @staticmethod
    def _grant_key() -> admin_pb2.GrantKeyInfo:
        return admin_pb2.GrantKeyInfo(id=STEERING, unaware_nodes=[STEERING], unaware_replicas=[STEERING])

    @staticmethod
    def _front_key() -> admin_pb2.FrontKeyInfo:
        return admin_pb2.FrontKeyInfo(id=STEERING, unaware_replicas=[STEERING])

    @staticmethod
    def _tunnel() -> types_pb2.TunnelInfo:
        return types_pb2.TunnelInfo(label=STEERING, node=STEERING, tenant=STEERING, token_id=STEERING, host=STEERING)

    @staticmethod
    def _node() -> types_pb2.NodeInfo:
        return types_pb2.NodeInfo(
            name=STEERING,
            region=STEERING,
            host=STEERING,
            version=STEERING,
            server_name=STEERING,
            domain=STEERING,
            reach=types_pb2.REACH_FAILED,
            reach_failure=STEERING,
            addresses=[STEERING, "192.0.2.1"],
            zones=[STEERING],
        )


@pytest.fixture(scope="module")
def admin(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The global options that lead to a hostile registry."""
    tls = tls_of(authority, "127.0.0.1")
    ca = tmp_path_factory.mktemp("admin") / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    admin_pb2_grpc.add_AdminServicer_to_server(HostileAdmin(), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(tls.key, tls.certificate)]))
    server.start()
    yield ["--registry", f"127.0.0.1:{port}", "--ca", str(ca), "--token", TOKEN]
    server.stop(None).wait()


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize(
    "command",
    [
        "node list",
        "node show x",
        "node watch",
        "node drain x",
        "node invite --region x",
        "tunnel list",
        "tunnel show x",
        "tunnel watch",
        "audit list",
        "token list",
        "token create --tenant x",
        "token revoke x",
        "tenant list",
        "tenant set-quota x 1",
        "invitation list",
        "invitation revoke x",
        "grant-key list",
        "grant-key rotate",
        "grant-key retire x",
        "ca list",
        "ca rotate",
        "ca retire x",
        "certificate list",
        "certificate renew x",
        "certificate revoke x",
        "backup note",
        "doctor --no-visits --domain x.localhost",
        "dns record list",
        "dns record add x TXT y",
        "dns record remove x TXT",
        "dns export",
    ],
)
def test_no_command_of_portway_admin_passes_control_characters_on(
    admin: list[str], command: str, form: tuple[str, ...]
) -> None:
    """Names, addresses, versions, reasons, the audit; results and errors."""
    result = CliRunner().invoke(main, [*admin, *command.split(), *form], catch_exceptions=False)
    assert result.exit_code in (0, 1, 11)
    assert "forged" in result.output or command == "backup note"
    assert fit_for_a_terminal(result.output)
