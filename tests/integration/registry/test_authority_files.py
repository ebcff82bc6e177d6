"""A CA that the registry was given in files is replaced there, in stages, while the registry runs."""

from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc import aio
from portway_proto.v1 import admin_pb2
from portway_proto.v1.mesh_pb2 import ClusterSettings, RenewCertificateRequest
from portway_proto.v1.mesh_pb2_grpc import MeshStub
from portway_registry.config import Config
from portway_registry.pki.signing import Signer, new_key, private_pem
from portway_registry.server import Registry
from portway_runtime.certificates import authority_id
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.node_stream import NodeStream, StreamEnded
from portway_testkit.clusters.registry import Pki, node_info


class Files:
    """The files of a CA, which `write` replaces."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "cluster-ca.crt", folder / "cluster-ca.key"

    def write(self, *trusted: Signer) -> None:
        """The first one issues."""
        self.certificate.write_bytes(b"".join(one.pem for one in trusted))
        self.key.write_bytes(private_pem(trusted[0].key))


OLD, NEXT = Signer.create(), Signer.create()


@pytest.fixture
def store_text() -> str:
    return "embedded:memory"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.write(OLD)
    return files


@pytest.fixture
def config(pki: Pki, tmp_path: Path, files: Files) -> Config:
    return pki.config(tmp_path, cluster_ca=files.certificate, cluster_ca_key=files.key)


class Joined:
    """A node whose certificate a CA has issued."""

    def __init__(self, folder: Path, signer: Signer, trusted: bytes) -> None:
        self.ca = folder / f"trusted-by-node-{authority_id(signer.certificate)}"
        self.ca.write_bytes(trusted)
        self._signer = signer

    def node(self, name: str) -> tuple[bytes, bytes]:
        key = new_key()
        made = self._signer.node(key.public_key(), name, "fra")
        return made.public_bytes(Encoding.PEM), private_pem(key)


def ids(*signers: Signer) -> list[str]:
    return [authority_id(one.certificate) for one in signers]


def told(node: NodeStream) -> tuple[list[str], str]:
    """The CAs that the node was told last, and which of them issues."""
    settings = node.settings or ClusterSettings()
    trusted = x509.load_pem_x509_certificates(settings.cluster_ca) if settings.cluster_ca else []
    return [authority_id(one) for one in trusted], settings.issuer


async def test_the_stages_are_changes_of_the_files(
    registry: Registry, files: Files, tmp_path: Path, admin: AdminCaller
) -> None:
    """Two trusted, then the next one first, then alone: nodes are told each time, and each may come at every stage
    until its certificate's CA is gone: its session and its calls end then."""
    of_old, of_next = Joined(tmp_path, OLD, OLD.pem + NEXT.pem), Joined(tmp_path, NEXT, NEXT.pem)

    async def states() -> list[int]:
        answer = await admin.stub.ListAuthorities(admin_pb2.ListAuthoritiesRequest(), metadata=admin.shown)
        return [one.state for one in answer.authorities]

    async with NodeStream(registry.mesh_address, of_old, node_info("fra-1")) as node:
        await node.until(lambda: told(node) == (ids(OLD), ids(OLD)[0]))
        files.write(OLD, NEXT)
        registry.reload_certificates()
        await node.until(lambda: told(node) == (ids(OLD, NEXT), ids(OLD)[0]))
        assert await states() == [admin_pb2.AUTHORITY_STATE_ISSUING, admin_pb2.AUTHORITY_STATE_ANNOUNCED]
        files.write(NEXT, OLD)
        registry.reload_certificates()
        await node.until(lambda: told(node) == (ids(NEXT, OLD), ids(NEXT)[0]))
        async with NodeStream(registry.mesh_address, of_next, node_info("fra-2")):
            pass
        async with NodeStream(registry.mesh_address, of_old, node_info("fra-3")):
            pass
        files.write(NEXT)
        registry.reload_certificates()
        with pytest.raises(StreamEnded) as ended:
            await node.until(lambda: told(node)[0] == ids(NEXT))
        assert (ended.value.code, "is retired" in ended.value.details) == (grpc.StatusCode.UNAUTHENTICATED, True)
        with pytest.raises(aio.AioRpcError, match="is retired"):  # on the connection, which is open still
            await MeshStub(node._channel).RenewCertificate(RenewCertificateRequest(csr=b"any"))
    async with NodeStream(registry.mesh_address, of_next, node_info("fra-2")) as node:
        await node.until(lambda: told(node) == (ids(NEXT), ids(NEXT)[0]))


async def test_files_that_do_not_belong_together_change_nothing(
    registry: Registry, files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A key of another CA, as it is between two writes."""
    of_old = Joined(tmp_path, OLD, OLD.pem + NEXT.pem)
    async with NodeStream(registry.mesh_address, of_old, node_info("fra-1")) as node:
        await node.until(lambda: told(node)[0] == ids(OLD))
        files.certificate.write_bytes(NEXT.pem + OLD.pem)
        registry.reload_certificates()
        assert ["not reloaded" in record.message for record in caplog.records if "CA" in record.message] == [True]
        caplog.clear()  # the error in the record holds what the test holds
        assert told(node)[0] == ids(OLD)
        files.write(NEXT, OLD)
        registry.reload_certificates()
        await node.until(lambda: told(node) == (ids(NEXT, OLD), ids(NEXT)[0]))
