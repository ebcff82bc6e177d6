"""A node of the besieged node's region that is in an attacker's hands."""

import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from cryptography import x509
from portway_proto.v1.lane_pb2 import Peer
from portway_proto.wire.frames import FrameType, encode_frame
from portway_proto.wire.limits import MESH_ALPN, PROTOCOL_VERSION
from portway_registry.pki.ca_folder import CaFolder
from portway_relay.raw_ports.tickets import Tickets
from portway_runtime.clocks import RegistryClock

from portway_testkit.clusters.node_stream import NodeStream, kept_alive
from portway_testkit.clusters.registry import node_info
from portway_testkit.visitors.lane_flood import lane_to
from portway_testkit.visitors.siege import Besieged

_NAME: Final = "fra-2"
_REGION: Final = "fra"


@dataclass(frozen=True, slots=True)
class HostileSibling:
    """Its name, and its certificate and key."""

    besieged: Besieged
    name: str
    certificate: Path
    key: Path

    @contextmanager
    def lane(self, *, control: bool = True) -> Iterator[ssl.SSLSocket]:
        """A lane of its own to the besieged node, which has said PEER."""
        with lane_to(self.besieged, MESH_ALPN, (self.certificate, self.key)) as lane:
            peer = Peer(version=PROTOCOL_VERSION, control=control)
            lane.sendall(encode_frame(FrameType.PEER, peer.SerializeToString()))
            yield lane

    def ticket(self, label: str, port: int) -> bytes:
        """A ticket that it has signed."""
        node = SimpleNamespace(
            key=self.key.read_bytes(), certificate=x509.load_pem_x509_certificate(self.certificate.read_bytes())
        )
        loaded: Any = SimpleNamespace(node=node)
        return Tickets(self.name, _REGION, lambda: loaded, time.time, RegistryClock()).sign(label, port).encoded


@asynccontextmanager
async def hostile_sibling(besieged: Besieged) -> AsyncIterator[HostileSibling]:
    """It is registered, and lives until the block ends."""
    certificate, key = (besieged.pki / f"node-{_NAME}.{kind}" for kind in ("crt", "key"))
    if not certificate.exists():
        CaFolder.open(besieged.pki).add_node(_NAME)

    class Identities:
        ca = besieged.ca

        def node(self, name: str) -> tuple[bytes, bytes]:
            return certificate.read_bytes(), key.read_bytes()

    node = node_info(_NAME, domain="localhost")
    async with NodeStream(besieged.mesh, Identities(), node) as stream:
        await stream.until(lambda: "fra-1" in stream.peers)
        async with kept_alive(stream):
            yield HostileSibling(besieged, _NAME, certificate, key)
