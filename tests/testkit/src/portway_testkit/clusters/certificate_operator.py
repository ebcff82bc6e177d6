"""A registry that obtains certificates, a node of one region, and what its operator sees of these and orders.

Here: calls in the test's own loop. Not here: the ACME server (pebble.py), the command line (admin_stage.py).
"""

import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from portway_proto.v1.admin_pb2 import (
    ListNodesRequest,
    ListZoneCertificatesRequest,
    RenewZoneCertificateRequest,
    ZoneCertificateInfo,
)
from portway_registry.acme.server_calls import on_thread
from portway_registry.config import Config
from portway_registry.server import Registry

from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.node_stream import NodeStream, all_known, stream
from portway_testkit.clusters.pebble import Pebble
from portway_testkit.clusters.registry import Pki, channel, running


@dataclass
class CertificateOperator:
    """Of a registry with one node, fra-1, and so with one certificate."""

    registry: Registry
    node: NodeStream
    admin: AdminCaller
    zone: str = "fra.tunnels.example"

    async def certificate(self) -> ZoneCertificateInfo:
        request = ListZoneCertificatesRequest()
        answer = await self.admin.stub.ListZoneCertificates(request, metadata=self.admin.shown)
        (found,) = answer.certificates
        return found

    async def until(self, found: Callable[[ZoneCertificateInfo], bool]) -> ZoneCertificateInfo:
        """The certificate once it is so."""
        while not found(now := await self.certificate()):
            pass
        return now

    async def order(self) -> ZoneCertificateInfo:
        """Order a renewal; returns the certificate as it was."""
        request = RenewZoneCertificateRequest(zone=self.zone)
        return (await self.admin.stub.RenewZoneCertificate(request, metadata=self.admin.shown)).certificate

    async def renew(self) -> ZoneCertificateInfo:
        """Order a renewal, and wait for it."""
        before = await self.order()
        return await self.until(lambda now: now.obtained_at_ms > before.obtained_at_ms)

    async def complaints(self) -> list[str]:
        """What the list of nodes says of certificates."""
        answer = await self.admin.stub.ListNodes(ListNodesRequest(), metadata=self.admin.shown)
        return list(answer.certificate_failures)

    async def metrics(self) -> str:
        """The page, of a registry with `metrics_listen`."""

        def read() -> str:
            with urllib.request.urlopen(f"http://{self.registry.metrics_address}/metrics", timeout=10) as answer:
                text: str = answer.read().decode()
            return text

        return await on_thread(read)


@asynccontextmanager
async def operating(config: Config, pebble: Pebble, pki: Pki) -> AsyncIterator[CertificateOperator]:
    """The registry and its node, until the block ends."""
    async with running(config, pebble.publisher()) as registry, channel(registry.address, pki.ca) as public:
        assert config.admin_token_file is not None
        admin = AdminCaller(public, config.admin_token_file.read_text().strip(), registry, pki)
        async with stream(registry, pki) as node:
            await all_known(node)  # its region has a certificate, or the want of one, as soon as it is shown
            yield CertificateOperator(registry, node, admin)
