"""Whether a registry serves: gRPC health on both ports, /healthz and /metrics for operators."""

from pathlib import Path

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_registry.config import Config
from portway_registry.errors import ConfigError
from portway_registry.server import Registry
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.registry import LOOPBACK, NodeStream, Pki, bearer, channel, client_of, node_info, running

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

pytestmark = pytest.mark.parametrize("store_text", ["embedded"], indirect=True)


async def test_both_ports_say_that_they_serve(registry: Registry, public: grpc.aio.Channel, pki: Pki) -> None:
    """Health is answered without a token on the public port, and to nodes on theirs."""
    async with channel(registry.mesh_address, pki.ca, pki.node("fra-1")) as mesh:
        for port in (public, mesh):
            answer = await HealthStub(port).Check(health_pb2.HealthCheckRequest())
            assert answer.status == SERVING


async def test_a_watch_of_health_tells_the_end(config: Config, pki: Pki) -> None:
    """Whoever watches is told NOT_SERVING before the registry stops."""
    async with running(config) as registry, channel(registry.address, pki.ca) as public:
        watch = HealthStub(public).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        await registry.stop()
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()


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
            async with session.get(f"http://{registry.metrics_address}/metrics") as answer:
                page = await answer.text()
    assert 'portway_registry_calls_total{code="OK",method="/grpc.health.v1.Health/Check"} 1.0' in page
    assert 'portway_registry_nodes{region="fra"} 1.0' in page
    assert "portway_registry_tunnels 1.0" in page
    assert "portway_registry_sessions 1.0" in page
    for secret in (tunnel.label, token.info.id, LOOPBACK):
        assert secret not in page


@pytest.mark.parametrize("setting", ["listen", "mesh_listen", "metrics_listen"])
async def test_a_port_that_is_taken_is_a_config_error(
    registry: Registry, pki: Pki, tmp_path: Path, store_text: str, setting: str
) -> None:
    """Whichever of its ports is taken, the registry says which flag it was and leaves nothing behind."""
    taken = Endpoint(LOOPBACK, int(registry.address.rpartition(":")[2]))
    second = Registry(pki.config(tmp_path, store=store_text, **{setting: taken}))
    with pytest.raises(ConfigError, match=f"--{setting.replace('_', '-')}"):
        await second.start()
