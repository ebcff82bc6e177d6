"""What a registry signs for whom: every way in that is not the right one, and certificates that stand no more."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc import StatusCode
from portway_proto.v1 import admin_pb2
from portway_proto.v1.enrolment_pb2 import JoinRequest
from portway_proto.v1.enrolment_pb2_grpc import EnrolmentStub
from portway_proto.v1.mesh_pb2 import RenewCertificateRequest, ResolveRequest
from portway_proto.v1.mesh_pb2_grpc import MeshStub
from portway_proto.v1.types_pb2 import NodeCertificate
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_registry.state import keys
from portway_registry.store.open import open_store
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.node_stream import NodeStream, StreamEnded
from portway_testkit.clusters.registry import Pki, bearer, channel, node_info, running
from portway_testkit.clusters.replicas import LateStore


@dataclass(frozen=True)
class Key:
    """A node's key, and the requests that it signs."""

    private: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def request(self, *, names: tuple[str, ...] = ()) -> bytes:
        builder = x509.CertificateSigningRequestBuilder().subject_name(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anything")])
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
            )
        return builder.sign(self.private, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def new_key() -> Key:
    return Key(ec.generate_private_key(ec.SECP256R1()))


def forged() -> bytes:
    """A request whose signature is another key's than the one in it."""
    honest = new_key().request()
    victim = new_key().private.public_key()
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    own = x509.load_der_x509_csr(honest).public_key().public_bytes(*form)
    return honest.replace(own, victim.public_bytes(*form))


@pytest.fixture
def config(pki: Pki, tmp_path: Path, store_text: str) -> Config:
    """A registry with a CA of its own; short-lived certificates are the nodes' business."""
    return pki.config(tmp_path, store=store_text, cluster_ca=None)


async def join(
    over: grpc.aio.Channel, token: str, key: Key, *, node: str = "fra-1", region: str = "fra", csr: bytes | None = None
) -> NodeCertificate:
    request = JoinRequest(node=node, region=region, csr=key.request() if csr is None else csr)
    return (await EnrolmentStub(over).Join(request, metadata=bearer(token))).certificate


async def refused(call: "asyncio.Future[NodeCertificate] | object") -> tuple[StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call  # type: ignore[misc]
    return raised.value.code(), raised.value.details() or ""


def names_of(certificate: NodeCertificate) -> list[str]:
    parsed = x509.load_pem_x509_certificate(certificate.certificate)
    found = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return found.get_values_for_type(x509.DNSName)


async def register(registry: Registry, got: NodeCertificate, key: Key, name: str, region: str) -> None:
    """Open a session with a certificate, and end it. Raises StreamEnded."""
    async with NodeStream(registry.mesh_address, None, node_info(name, region), certificate=(got, key.pem)) as node:
        await node.until(lambda: node.settings)


async def test_the_names_are_the_registry_s(public: grpc.aio.Channel, admin: AdminCaller) -> None:
    """Whatever a request asks for: name and region are those that the invitation allows."""
    key = new_key()
    wish = key.request(names=("registry.portway.internal", "fra-2.node.portway.internal"))
    got = await join(public, (await admin.invite()).token, key, csr=wish)
    assert names_of(got) == ["fra-1.node.portway.internal", "fra.region.portway.internal"]


@pytest.mark.parametrize("csr", [b"", b"noise", forged()], ids=["none", "noise", "forged"])
async def test_a_request_must_be_signed_by_its_key(public: grpc.aio.Channel, admin: AdminCaller, csr: bytes) -> None:
    """Who has not the key gets no certificate for it; the token stays good."""
    token = (await admin.invite()).token
    code, _ = await refused(join(public, token, new_key(), csr=csr))
    assert code is StatusCode.INVALID_ARGUMENT
    assert await join(public, token, new_key())


async def test_nobody_registers_under_another_name_or_region(
    registry: Registry, public: grpc.aio.Channel, admin: AdminCaller
) -> None:
    """The certificate says who it is and where; a session that says otherwise is refused."""
    key = new_key()
    got = await join(public, (await admin.invite()).token, key)
    for name, region in (("fra-2", "fra"), ("fra-1", "iad")):
        with pytest.raises(StreamEnded) as ended:
            await register(registry, got, key, name, region)
        assert ended.value.code is StatusCode.PERMISSION_DENIED
    await register(registry, got, key, "fra-1", "fra")


async def test_a_certificate_is_renewed_for_the_same_node(
    registry: Registry, public: grpc.aio.Channel, admin: AdminCaller
) -> None:
    """By the one before; for the same names, whatever the request says."""
    key = new_key()
    got = await join(public, (await admin.invite()).token, key)
    async with channel(registry.mesh_address, got.cluster_ca, (got.certificate, key.pem), mesh=True) as mesh:
        request = RenewCertificateRequest(csr=key.request(names=("fra-9.node.portway.internal",)))
        renewed = (await MeshStub(mesh).RenewCertificate(request)).certificate
    assert names_of(renewed) == names_of(got)
    await register(registry, renewed, key, "fra-1", "fra")


async def test_a_removed_node_is_refused_everything(
    registry: Registry, public: grpc.aio.Channel, admin: AdminCaller
) -> None:
    """Its session ends, and a new one, its questions and the renewal of its certificate are refused; `serve` does not
    help; once it was invited anew its old certificate stays worthless."""
    key, other = new_key(), new_key()
    got = await join(public, (await admin.invite()).token, key)
    async with (
        NodeStream(registry.mesh_address, None, node_info("fra-1"), certificate=(got, key.pem)) as node,
        channel(registry.mesh_address, got.cluster_ca, (got.certificate, key.pem), mesh=True) as mesh,
    ):
        await node.until(lambda: "fra-1" in node.peers)
        await order(admin, admin_pb2.NODE_ORDER_REMOVE)
        assert (await node.ended()).code is StatusCode.PERMISSION_DENIED
        stub = MeshStub(mesh)
        for _ in range(2):
            with pytest.raises(StreamEnded) as ended:
                await register(registry, got, key, "fra-1", "fra")
            assert ended.value.code in (StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED)
            renewal = await refused(stub.RenewCertificate(RenewCertificateRequest(csr=key.request())))
            question = await refused(stub.Resolve(ResolveRequest(label="a" * 16)))
            assert {renewal[0], question[0]} <= {StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED}
            assert "node invite" in renewal[1]
            if ended.value.code is StatusCode.PERMISSION_DENIED:
                for taken_back in (admin_pb2.NODE_ORDER_SERVE, admin_pb2.NODE_ORDER_CORDON):
                    assert (await refused(order(admin, taken_back)))[0] is StatusCode.INVALID_ARGUMENT
                anew = await join(public, (await admin.invite(node="fra-1")).token, other)
        await register(registry, anew, other, "fra-1", "fra")


async def test_who_replaced_a_node_ends_its_session(
    registry: Registry, public: grpc.aio.Channel, admin: AdminCaller
) -> None:
    """An invitation by name is for a machine that takes the place of another."""
    key = new_key()
    got = await join(public, (await admin.invite()).token, key)
    async with NodeStream(registry.mesh_address, None, node_info("fra-1"), certificate=(got, key.pem)) as node:
        await node.until(lambda: "fra-1" in node.peers)
        await join(public, (await admin.invite(node="fra-1")).token, new_key())
        assert (await node.ended()).code is StatusCode.UNAUTHENTICATED


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Callable[[], LateStore]:
    """The store of the registry that is started next, whose watches can be held back."""
    opened: list[LateStore] = []

    def open_late(spec: Any, *, on_failure: Callable[[BaseException], None]) -> LateStore:
        opened.append(LateStore(open_store(spec, on_failure=on_failure), owned=True))
        return opened[-1]

    monkeypatch.setattr("portway_registry.cluster.open_store", open_late)
    return lambda: opened[-1]


async def test_a_node_has_its_certificate_once_those_before_are_refused(
    late: Callable[[], LateStore], registry: Registry, public: grpc.aio.Channel, admin: AdminCaller
) -> None:
    """However late the registry hears of what it has written itself."""
    key = new_key()
    got = await join(public, (await admin.invite()).token, key)
    token = (await admin.invite(node="fra-1")).token
    late().hold(keys.IDENTITIES)
    joining = asyncio.ensure_future(join(public, token, new_key()))
    done, _ = await asyncio.wait([joining], timeout=0.3)
    assert not done
    late().release()
    await joining
    async with channel(registry.mesh_address, got.cluster_ca, (got.certificate, key.pem), mesh=True) as mesh:
        code, _ = await refused(MeshStub(mesh).Resolve(ResolveRequest(label="a" * 16)))
    assert code is StatusCode.UNAUTHENTICATED


async def order(admin: AdminCaller, what: "admin_pb2.NodeOrder.ValueType") -> None:
    request = admin_pb2.OrderNodeRequest(name="fra-1", order=what)
    await admin.stub.OrderNode(request, metadata=admin.shown)


@pytest.fixture
async def replicas(config: Config, registry: Registry, pki: Pki) -> AsyncIterator[list[grpc.aio.Channel]]:
    """The public ports of two registries on one etcd."""
    async with (
        running(config) as second,
        channel(registry.address, pki.ca) as one,
        channel(second.address, pki.ca) as two,
    ):
        yield [one, two]


@pytest.mark.parametrize("store_text", ["etcd"], indirect=True)
async def test_at_two_replicas_at_once_a_token_is_good_once(
    etcd: EtcdServer, replicas: list[grpc.aio.Channel], admin: AdminCaller
) -> None:
    """Both replicas sign by the same CA, and of two nodes that come in the same moment one is refused."""
    authorities = set()
    for turn in range(5):
        token = (await admin.invite()).token
        names = [f"fra-{turn}-{number}" for number in range(2)]
        answers = await asyncio.gather(
            *(join(over, token, new_key(), node=name) for over, name in zip(replicas, names, strict=True)),
            return_exceptions=True,
        )
        joined = [one for one in answers if isinstance(one, NodeCertificate)]
        lost = [one for one in answers if isinstance(one, grpc.aio.AioRpcError)]
        assert (len(joined), len(lost)) == (1, 1)
        assert lost[0].code() is StatusCode.UNAUTHENTICATED
        assert "was used by node" in (lost[0].details() or "")
        authorities.add(joined[0].cluster_ca)
    assert len(authorities) == 1
