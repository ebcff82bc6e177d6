"""A registry alone in the test's own loop, with callers of any credentials.

Here: certificates, a GeoIP file that contains loopback addresses, channels, what nodes and clients tell. Not here: a
node's side of its session (node_stream.py), relay nodes (cluster.py), calls of an admin (admin_calls.py).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import jwt
from mmdb_writer import MMDBWriter
from netaddr import IPSet
from portway_proto.v1.discovery_pb2 import RenewRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_proto.v1.types_pb2 import NODE_STATE_READY, NodeInfo, TunnelInfo
from portway_proto.wire.statements import SigningKey, cluster_tag
from portway_registry.acme.publisher import Publisher
from portway_registry.config import Config
from portway_registry.pki.ca_folder import CaFolder
from portway_registry.server import Registry
from portway_runtime.endpoints import Endpoint
from portway_runtime.grpc_channels import NO_PROXY_OF_ITS_OWN, OWN_CONNECTIONS
from portway_runtime.identities import REGISTRY_NAME, node_name

from portway_testkit import signers
from portway_testkit.signers import AnnouncedClient, SessionSigner

LOOPBACK = "127.0.0.1"
# Seconds: more than anything that is waited for here takes on a busy machine.
PATIENCE = 20.0
# For callers of Locate and Renew that open no tunnel.
SESSION_KEY = bytes(32)


class Pki:
    """A cluster's CA with the registry's certificate; makes a certificate for each node that is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._authority = CaFolder.create(folder)
        self._authority.add_registry([LOOPBACK, "localhost"])

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def node(self, name: str) -> tuple[bytes, bytes]:
        """A node's certificate and key."""
        certificate, key = self.folder / f"node-{name}.crt", self.folder / f"node-{name}.key"
        if not certificate.exists():
            self._authority.add_node(name)
        return certificate.read_bytes(), key.read_bytes()

    def config(self, folder: Path, **settings: Any) -> Config:
        """Settings of a registry on loopback with its files in `folder`; its store is in memory unless `store` is
        given."""
        given: dict[str, Any] = {
            "listen": Endpoint(LOOPBACK, 0),
            "mesh_listen": Endpoint(LOOPBACK, 0),
            "tls_cert": self.folder / "registry.crt",
            "tls_key": self.folder / "registry.key",
            "cluster_ca": self.ca,
            "store": "embedded:memory",
            "geoip": loopback_geoip(folder / "loopback.mmdb"),
            "admin_token_file": folder / "admin-token",
            # Most nodes of these tests do not listen.
            "check_addresses": "no",
        }
        return Config(**given | settings)


def loopback_geoip(
    path: Path, *, latitude: float = 50.1, longitude: float = 8.7, country: str = "DE", network: str = "127.0.0.0/8"
) -> Path:
    """A City file with one network, in Frankfurt."""
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="Test-City", float_type="f64")
    place = {"country": {"iso_code": country}, "location": {"latitude": latitude, "longitude": longitude}}
    writer.insert_network(IPSet([network]), place)
    writer.to_db_file(str(path))
    return path


@asynccontextmanager
async def running(config: Config, publisher: Publisher | None = None) -> AsyncIterator[Registry]:
    """A registry from its start to its stop; a part that ends early fails the block."""
    failures: list[BaseException] = []
    registry = Registry(config, on_failure=failures.append, publisher=publisher)
    await registry.start()
    try:
        yield registry
    finally:
        await registry.stop()
    assert not failures, f"a part of the registry ended early: {failures}"


def channel(
    address: str,
    ca: Path | bytes,
    certificate: tuple[bytes, bytes] | None = None,
    *,
    mesh: bool = False,
    window_grows: bool = True,
) -> grpc.aio.Channel:
    """A channel with a connection of its own. `certificate` is a certificate and key for the mesh port, whose own
    certificate is then verified as nodes do. window_grows: a server may send more than 64 KiB that are not read, up to
    some MB, on a connection that has been seen to be fast."""
    roots = ca if isinstance(ca, bytes) else ca.read_bytes()
    chain, key = certificate or (None, None)
    credentials = grpc.ssl_channel_credentials(roots, key, chain)
    options: list[tuple[str, Any]] = [*OWN_CONNECTIONS, *NO_PROXY_OF_ITS_OWN]
    if mesh:
        options.append(("grpc.ssl_target_name_override", REGISTRY_NAME))
    if not window_grows:
        options.append(("grpc.http2.bdp_probe", 0))
    return grpc.aio.secure_channel(address, credentials, options=options)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Call metadata with an API token."""
    return (("authorization", f"Bearer {token}"),)


def node_info(name: str, region: str = "fra", **more: Any) -> NodeInfo:
    """A node as it registers."""
    given: dict[str, Any] = {
        "name": name,
        "region": region,
        "host": LOOPBACK,
        "port": 443,
        "server_name": node_name(name),
        "domain": "tunnels.example",
        "version": "1.2.3",
        "state": NODE_STATE_READY,
    }
    return NodeInfo(**given | more)


def tunnel_info(key: SigningKey | None = None, epoch: int = 1, **more: Any) -> TunnelInfo:
    """A tunnel as the store has it, claimed for its node by some session."""
    node = more.pop("node", "fra-1")
    claim = SessionSigner().claim(key, node=node, epoch=epoch)
    given: dict[str, Any] = {
        "tenant": "demo",
        "token_id": "token1",
        "host": f"{claim.label}.fra.tunnels.example",
        "opened_at_ms": 1,
    }
    info = signers.tunnel_info(claim)
    info.MergeFrom(TunnelInfo(**given | more))
    return info


async def client_of(public: grpc.aio.Channel, token: str) -> AnnouncedClient:
    """A client with a session key of its own, which has got its grant from the registry."""
    key = SigningKey()
    answer = await DiscoveryStub(public).Renew(RenewRequest(session_key=key.public), metadata=bearer(token))
    says = jwt.decode(answer.grant.token, options={"verify_signature": False})
    return AnnouncedClient(SessionSigner(cluster_tag(says["iss"]), key), answer.grant.token)
