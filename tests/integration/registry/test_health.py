"""Whether a registry serves: gRPC health on both ports, /healthz and /metrics for operators."""

import asyncio
from pathlib import Path

import aiohttp
import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_proto.v1.discovery_pb2 import LocateRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_registry.errors import ConfigError
from portway_registry.server import Registry
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.node_stream import NodeStream, all_known
from portway_testkit.clusters.registry import (
    LOOPBACK,
    PATIENCE,
    Pki,
    bearer,
    channel,
    client_of,
    node_info,
    running,
)

SERVING = health_pb2.HealthCheckResponse.SERVING

pytestmark = pytest.mark.parametrize("store_text", ["embedded"], indirect=True)


async def test_both_ports_say_that_they_serve(registry: Registry, public: grpc.aio.Channel, pki: Pki) -> None:
    """Health is answered without a token on the public port, and to nodes on theirs."""
    async with channel(registry.mesh_address, pki.ca, pki.node("fra-1")) as mesh:
        for port in (public, mesh):
            answer = await HealthStub(port).Check(health_pb2.HealthCheckRequest())
            assert answer.status == SERVING


async def test_health_cannot_be_watched(registry: Registry, public: grpc.aio.Channel) -> None:
    """A stream of which everybody may open any number is not served; a check is made again."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await HealthStub(public).Watch(health_pb2.HealthCheckRequest()).read()
    assert refused.value.code() is StatusCode.UNIMPLEMENTED


async def test_operators_may_have_a_port_of_their_own(pki: Pki, tmp_path: Path, store_text: str) -> None:
    """With --admin-listen Admin is served there alone, and clients' methods at the public port alone."""
    config = pki.config(tmp_path, store=store_text, admin_listen=Endpoint(LOOPBACK, 0))
    async with running(config) as registry:
        assert registry.admin_address is not None
        assert config.admin_token_file is not None
        shown = bearer(config.admin_token_file.read_text().strip())
        async with channel(registry.address, pki.ca) as public, channel(registry.admin_address, pki.ca) as own:
            listed = await AdminStub(own).ListNodes(admin_pb2.ListNodesRequest(), metadata=shown)
            assert list(listed.nodes) == []
            assert (await HealthStub(own).Check(health_pb2.HealthCheckRequest())).status == SERVING
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await AdminStub(public).ListNodes(admin_pb2.ListNodesRequest(), metadata=shown)
            assert refused.value.code() is StatusCode.UNIMPLEMENTED
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await DiscoveryStub(own).Locate(LocateRequest(), metadata=shown)
            assert refused.value.code() is StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("host", ["::1", "::", "localhost"])
async def test_ports_are_served_on_either_family(pki: Pki, tmp_path: Path, store_text: str, host: str) -> None:
    """IPv6, both at once, and every address of a name; port 0 is one port of all of them."""
    async with running(pki.config(tmp_path, store=store_text, listen=Endpoint(host, 0))) as registry:
        port = registry.address.rpartition(":")[2]
        assert registry.address == str(Endpoint(host, int(port)))
        async with channel(f"localhost:{port}", pki.ca) as public:
            assert (await HealthStub(public).Check(health_pb2.HealthCheckRequest())).status == SERVING


async def test_pages_are_served_on_both_families(pki: Pki, tmp_path: Path, store_text: str) -> None:
    """`--metrics-listen [::]:PORT` is every address, as at every other port."""
    config = pki.config(tmp_path, store=store_text, metrics_listen=Endpoint("::", 0))
    async with running(config) as registry, aiohttp.ClientSession() as session:
        port = registry.metrics_address.rpartition(":")[2] if registry.metrics_address else ""
        for host in (LOOPBACK, "[::1]"):
            async with session.get(f"http://{host}:{port}/healthz") as answer:
                assert answer.status == 200


async def test_metrics_count_calls_nodes_and_tunnels(pki: Pki, tmp_path: Path, store_text: str) -> None:
    """/metrics has what the registry holds, and no label, token or address of anybody."""
    config = pki.config(tmp_path, store=store_text, metrics_listen=Endpoint(LOOPBACK, 0))
    async with running(config) as registry, NodeStream(registry.mesh_address, pki, node_info("fra-1")) as node:
        async with channel(registry.address, pki.ca) as public, aiohttp.ClientSession() as session:
            assert config.admin_token_file is not None
            shown = bearer(config.admin_token_file.read_text().strip())
            request = admin_pb2.CreateTokenRequest(tenant="demo", role=admin_pb2.ROLE_CLIENT)
            token = await AdminStub(public).CreateToken(request, metadata=shown)
            client = await client_of(public, token.token)
            tunnel = client.tunnel("fra-1")
            await node.announce(tunnel, of=[client])
            await HealthStub(public).Check(health_pb2.HealthCheckRequest())
            async with session.get(f"http://{registry.metrics_address}/healthz") as answer:
                assert (answer.status, await answer.text()) == (200, "ok\n")
            await all_known(node)
            page = ""
            async with asyncio.timeout(PATIENCE):  # counted in the registry's memory, which follows the store
                while "portway_registry_tunnels 1.0" not in page:
                    async with session.get(f"http://{registry.metrics_address}/metrics") as answer:
                        page = await answer.text()
    assert 'portway_registry_calls_total{code="OK",method="/grpc.health.v1.Health/Check"} 1.0' in page
    assert 'portway_registry_nodes{region="fra"} 1.0' in page
    assert "portway_registry_tunnels 1.0" in page
    assert "portway_registry_sessions 1.0" in page
    assert 'portway_registry_connections{port="mesh_listen",stage="known"} 1.0' in page
    assert 'portway_registry_certificate_end_timestamp_seconds{certificate="public"}' in page
    assert 'portway_registry_certificate_end_timestamp_seconds{certificate="ca-' in page
    for secret in (tunnel.label, token.info.id, LOOPBACK):
        assert secret not in page


@pytest.mark.parametrize("setting", ["listen", "mesh_listen", "admin_listen", "metrics_listen"])
async def test_a_port_that_is_taken_is_a_config_error(
    registry: Registry, pki: Pki, tmp_path: Path, store_text: str, setting: str
) -> None:
    """Whichever of its ports is taken, the registry says which flag it was and leaves nothing behind."""
    taken = Endpoint(LOOPBACK, int(registry.address.rpartition(":")[2]))
    second = Registry(pki.config(tmp_path, store=store_text, **{setting: taken}))
    with pytest.raises(ConfigError, match=f"--{setting.replace('_', '-')}"):
        await second.start()
