"""A thief has the token of an invitation that was used, and the key of the node that used it."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import StatusCode
from portway_proto.v1 import admin_pb2
from portway_proto.v1.enrolment_pb2 import JoinRequest
from portway_proto.v1.enrolment_pb2_grpc import EnrolmentStub
from portway_proto.v1.types_pb2 import NodeCertificate
from portway_registry import cluster
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.node_stream import NodeStream
from portway_testkit.clusters.registry import Pki, bearer, node_info, running

HOUR_MS = 3_600_000


class Time:
    """The registry's clock, which a test sets ahead."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return self.real() + self.ahead_ms

    real = staticmethod(cluster.now_ms)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(cluster, "now_ms", time)
    return time


@pytest.fixture
def config(pki: Pki, tmp_path: Path) -> Config:
    return pki.config(tmp_path, cluster_ca=None)


@pytest.fixture
async def registry(config: Config, time: Time) -> AsyncIterator[Registry]:
    async with running(config) as registry:
        yield registry


class Key:
    """The key of a node, as its owner and the thief have it."""

    def __init__(self) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.pem = private.private_bytes(*form)
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(private, hashes.SHA256())
        self.csr = request.public_bytes(serialization.Encoding.DER)


async def join(public: grpc.aio.Channel, token: str, key: Key) -> NodeCertificate:
    request = JoinRequest(node="fra-1", region="fra", csr=key.csr)
    return (await EnrolmentStub(public).Join(request, metadata=bearer(token))).certificate


async def refused(public: grpc.aio.Channel, token: str, key: Key) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await join(public, token, key)
    assert raised.value.code() is StatusCode.UNAUTHENTICATED
    return raised.value.details() or ""


async def invite(admin: AdminCaller) -> str:
    request = admin_pb2.InviteNodeRequest(region="fra")
    answer: admin_pb2.InviteNodeResponse = await admin.stub.InviteNode(request, metadata=admin.shown)
    return answer.token


async def audited(admin: AdminCaller) -> list[str]:
    answer = await admin.stub.ListAudit(admin_pb2.ListAuditRequest(), metadata=admin.shown)
    return [entry.action for entry in answer.entries if entry.action.startswith("node.join")]


async def test_after_the_end_of_the_certificate_there_is_no_other(
    public: grpc.aio.Channel, admin: AdminCaller, time: Time
) -> None:
    """A node that never came back leaves nothing of use: ten minutes after its use the invitation is over."""
    token, key = await invite(admin), Key()
    await join(public, token, key)
    time.ahead_ms = 49 * HOUR_MS
    assert "was used by node fra-1" in await refused(public, token, key)
    assert await audited(admin) == ["node.join"]


async def test_a_node_that_has_registered_has_had_its_answer(
    public: grpc.aio.Channel, admin: AdminCaller, registry: Registry
) -> None:
    """From then on the invitation gives nothing, within the minutes too; a repeat before that is in the audit."""
    token, key = await invite(admin), Key()
    await join(public, token, key)
    got = await join(public, token, key)
    assert await audited(admin) == ["node.join-again", "node.join"]
    async with NodeStream(registry.mesh_address, None, node_info("fra-1"), certificate=(got, key.pem)):
        assert "has registered since" in await refused(public, token, key)
    assert "has registered since" in await refused(public, token, key)
    assert await audited(admin) == ["node.join-again", "node.join"]
