"""Every method, called with every wrong role: the protocol's own description says which methods there are."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode
from portway_proto.v1 import admin_pb2, discovery_pb2, enrolment_pb2, mesh_pb2
from portway_registry.net import admission
from portway_registry.server import Registry
from portway_registry.services.method_roles import METHOD_ROLES
from portway_registry.state.records import Role
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.registry import Pki, bearer, channel

SERVICES: list[ServiceDescriptor] = [
    discovery_pb2.DESCRIPTOR.services_by_name["Discovery"],
    enrolment_pb2.DESCRIPTOR.services_by_name["Enrolment"],
    mesh_pb2.DESCRIPTOR.services_by_name["Mesh"],
    admin_pb2.DESCRIPTOR.services_by_name["Admin"],
]
METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods
}
UNKNOWN = "pw_zzzzzzzz_" + "a" * 32
UNKNOWN_INVITATION = "pwj_zzzzzzzz_" + "a" * 32
REFUSALS = {StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED, StatusCode.UNIMPLEMENTED, StatusCode.UNAVAILABLE}

Metadata = tuple[tuple[str, str], ...]


def of_role(role: Role) -> list[str]:
    return [path for path in METHODS if METHOD_ROLES[path] is role]


async def _one(request: Any) -> AsyncIterator[Any]:
    yield request


async def call(over: grpc.aio.Channel, path: str, metadata: Metadata = ()) -> StatusCode:
    """The status of an empty request; of a stream that answers, OK, and it is broken off."""
    method = METHODS[path]
    request_type, response_type = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    kind = (
        "stream" if method.client_streaming else "unary",
        "stream" if method.server_streaming else "unary",
    )
    make = getattr(over, "_".join(kind))(
        path, request_serializer=request_type.SerializeToString, response_deserializer=response_type.FromString
    )
    request = _one(request_type()) if method.client_streaming else request_type()
    running = make(request, metadata=metadata, timeout=10)
    try:
        if not method.server_streaming:
            await running
            return StatusCode.OK
        answer = await running.read()
        return StatusCode.OK if isinstance(answer, response_type) else await running.code()
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        running.cancel()


@dataclass(frozen=True)
class Tokens:
    client: str
    admin: str
    revoked_client: str
    revoked_admin: str
    wrong_secret: str
    invitation: str


@pytest.fixture
async def tokens(admin: AdminCaller, admin_token: str) -> Tokens:
    client = await admin.new_token()
    revoked = [await admin.new_token(role=role) for role in (admin_pb2.ROLE_CLIENT, admin_pb2.ROLE_ADMIN)]
    for one in revoked:
        await admin.revoke(one.info.id)
    return Tokens(
        client.token,
        admin_token,
        revoked[0].token,
        revoked[1].token,
        f"pw_{client.info.id}_{admin_token.split('_')[2]}",
        (await admin.invite()).token,
    )


def test_every_method_has_a_row_in_the_table() -> None:
    """Each method of the protocol demands a role, and the table names no other methods than those and health's."""
    assert {path: METHOD_ROLES.get(path) for path in METHODS if METHOD_ROLES.get(path) is None} == {}
    assert {path for path in METHOD_ROLES if path not in METHODS} == {
        f"/grpc.health.v1.Health/{name}" for name in ("Check", "List")
    }


def test_roles_follow_the_services() -> None:
    """Discovery is for clients, Enrolment for who is invited, Mesh for nodes, Admin for admins, without exception."""
    wanted = {"Discovery": Role.CLIENT, "Enrolment": Role.INVITED, "Mesh": Role.NODE, "Admin": Role.ADMIN}
    assert {path: METHOD_ROLES[path] for path in METHODS} == {
        path: wanted[method.containing_service.name] for path, method in METHODS.items()
    }


@pytest.fixture
def many_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One address may make as many calls without a good token as there are here."""
    monkeypatch.setattr(admission, "ANONYMOUS_BURST", 1_000.0)


@pytest.mark.usefixtures("many_strangers")
@pytest.mark.parametrize("role", [Role.CLIENT, Role.ADMIN, Role.INVITED])
async def test_without_a_good_token_nothing_is_done(role: Role, public: grpc.aio.Channel, tokens: Tokens) -> None:
    """No token, a malformed, unknown, revoked one and one with a wrong secret are each UNAUTHENTICATED everywhere."""
    wrong: dict[str, Metadata] = {
        "none": (),
        "empty": (("authorization", ""),),
        "not a bearer": (("authorization", f"Basic {tokens.client}"),),
        "malformed": bearer("pw_no_token"),
        "cut": bearer(tokens.client[:-1]),
        "unknown": bearer(UNKNOWN),
        "wrong secret": bearer(tokens.wrong_secret),
        "revoked client": bearer(tokens.revoked_client),
        "revoked admin": bearer(tokens.revoked_admin),
        "unknown invitation": bearer(UNKNOWN_INVITATION),
        "cut invitation": bearer(tokens.invitation[:-1]),
        "another's secret": bearer(f"pwj_{tokens.invitation.split('_')[1]}_{tokens.client.split('_')[2]}"),
    }
    found = {(path, why): await call(public, path, shown) for path in of_role(role) for why, shown in wrong.items()}
    assert found == dict.fromkeys(found, StatusCode.UNAUTHENTICATED)
    assert len(found) == len(wrong) * len(of_role(role))


async def test_a_client_is_no_admin_and_an_admin_no_client(public: grpc.aio.Channel, tokens: Tokens) -> None:
    """Each kind of token is denied the methods of the others: a client's, an admin's, an invitation's."""
    of_kind = {Role.CLIENT: tokens.client, Role.ADMIN: tokens.admin, Role.INVITED: tokens.invitation}
    found = {
        (path, shown): await call(public, path, bearer(token))
        for shown, token in of_kind.items()
        for role in of_kind
        if role is not shown
        for path in of_role(role)
    }
    assert found == dict.fromkeys(found, StatusCode.PERMISSION_DENIED)
    assert len(found) == 2 * sum(len(of_role(role)) for role in of_kind)


async def test_nobody_is_a_node_on_the_public_port(public: grpc.aio.Channel, tokens: Tokens) -> None:
    """Mesh is not served where tokens count, whatever token is shown."""
    for token in (tokens.client, tokens.admin, tokens.invitation):
        found = {path: await call(public, path, bearer(token)) for path in of_role(Role.NODE)}
        assert found == dict.fromkeys(of_role(Role.NODE), StatusCode.UNIMPLEMENTED)


async def test_a_node_is_neither_client_nor_admin(registry: Registry, pki: Pki, tokens: Tokens) -> None:
    """On the mesh port neither Discovery nor Admin is served, not even with a token that is good elsewhere."""
    async with channel(registry.mesh_address, pki.ca, pki.node("fra-1")) as mesh:
        found = {path: await call(mesh, path, bearer(tokens.client)) for path in of_role(Role.CLIENT)}
        found |= {path: await call(mesh, path, bearer(tokens.admin)) for path in of_role(Role.ADMIN)}
    assert found == dict.fromkeys(found, StatusCode.UNIMPLEMENTED)


async def test_without_a_node_certificate_no_mesh(registry: Registry, pki: Pki, tokens: Tokens) -> None:
    """No certificate, one of another CA and one that names no node: the handshake or the call fails."""
    stranger = trustme.CA().issue_cert("fra-1.node.portway.internal")
    certificates = {
        "none": None,
        "another CA": (stranger.cert_chain_pems[0].bytes(), stranger.private_key_pem.bytes()),
        "no node": ((pki.folder / "registry.crt").read_bytes(), (pki.folder / "registry.key").read_bytes()),
    }
    found = {}
    for why, certificate in certificates.items():
        async with channel(registry.mesh_address, pki.ca, certificate) as mesh:
            for path in of_role(Role.NODE):
                found[why, path] = await call(mesh, path, bearer(tokens.admin))
    assert set(found.values()) <= {StatusCode.UNAVAILABLE, StatusCode.UNAUTHENTICATED}
    assert len(found) == 3 * len(of_role(Role.NODE))


async def test_the_right_role_is_let_in_everywhere(
    registry: Registry, public: grpc.aio.Channel, pki: Pki, tokens: Tokens
) -> None:
    """With the right role each method says something of its own: an answer, or what is wrong with an empty request."""
    found = {path: await call(public, path, bearer(tokens.admin)) for path in of_role(Role.ADMIN)}
    found |= {path: await call(public, path, bearer(tokens.client)) for path in of_role(Role.CLIENT)}
    found |= {path: await call(public, path, bearer(tokens.invitation)) for path in of_role(Role.INVITED)}
    async with channel(registry.mesh_address, pki.ca, pki.node("fra-1")) as mesh:
        found |= {path: await call(mesh, path) for path in of_role(Role.NODE)}
    assert set(found.values()).isdisjoint(REFUSALS)
    assert len(found) == len(METHODS)


async def test_a_method_nobody_knows_is_not_served(public: grpc.aio.Channel, tokens: Tokens) -> None:
    """A method outside the table is UNIMPLEMENTED, for admins too."""
    unheard: Any = public.unary_unary("/portway.v1.Admin/Unheard", lambda request: b"", lambda answer: answer)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await unheard(b"", metadata=bearer(tokens.admin))
    assert raised.value.code() is StatusCode.UNIMPLEMENTED
    assert "another release" in (raised.value.details() or "")
