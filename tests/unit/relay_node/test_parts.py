"""The parts of a node as they are put together: what one of them learns reaches those that act on it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_EPOCH
from portway_proto.v1.types_pb2 import NodeInfo, TunnelInfo
from portway_proto.wire.labels import Chain
from portway_relay.config import NodeConfig, PortRange
from portway_relay.parts import (
    Base,
    RawPortParts,
    Routing,
    Serving,
    build_base,
    build_raw_ports,
    build_routing,
    build_serving,
)
from portway_runtime import clocks
from portway_testkit.fakes.tunnel_table import FakeHolder
from portway_testkit.processes.ports import raw_port_range

CHAIN = Chain(b"\x07" * 32)


class Parts:
    """Every bundle of one node, nothing of it started."""

    def __init__(self, config: NodeConfig, failed: Callable[[BaseException], None]) -> None:
        self.base: Base = build_base(config, failed, clocks.monotonic, clocks.wall_clock)
        self.routing: Routing = build_routing(self.base)
        self.raw: RawPortParts = build_raw_ports(self.base, self.routing)
        self.serving: Serving = build_serving(self.base, self.routing, self.raw)

    def claim(self, holder: FakeHolder, *, unencrypted: bool = False) -> Any:
        return self.serving.table.claim(
            holder, CHAIN.label, 1, CHAIN.proof(1), h2_enabled=False, unencrypted=unencrypted, wanted_port=None
        )


@pytest.fixture
async def parts(node_config: Callable[..., NodeConfig], certificate_files: dict[str, Any]) -> AsyncIterator[Parts]:
    failures: list[BaseException] = []
    parts = Parts(node_config(raw_ports=PortRange(*raw_port_range()), **certificate_files), failures.append)
    yield parts
    await parts.routing.peers.close()
    await parts.base.carrier.close()
    assert failures == []


async def test_a_tunnel_that_another_node_holds_with_a_higher_epoch_is_evicted(parts: Parts) -> None:
    """The routes learn of it, the table takes it from its holder."""
    holder = FakeHolder()
    tunnel = parts.claim(holder)
    assert parts.routing.lookup.known(CHAIN.label, "fra") is tunnel
    parts.routing.peers.learn(NodeInfo(name="relay-2", region="fra", host="127.0.0.1", port=1))
    learned = TunnelInfo(label=CHAIN.label, node="relay-2", region="fra", epoch=2, proof=CHAIN.proof(2))
    assert parts.routing.routes.learn(learned) is not None
    assert parts.routing.tunnels.live(CHAIN.label) is None
    assert [(taken, failure.code) for taken, failure in holder.taken] == [(tunnel, FAILURE_CODE_EPOCH)]


async def test_a_tunnel_that_is_bound_here_is_announced(parts: Parts) -> None:
    """Its epoch is the highest that is known, and a registry hears of it."""
    parts.routing.outbox.whole([])
    parts.claim(FakeHolder())
    assert parts.routing.routes.epoch(CHAIN.label) == 1
    batch = parts.routing.outbox.take()
    assert batch is not None
    assert [(one.label, one.node, one.tenant) for one in batch.bound] == [(CHAIN.label, "relay-1", "acme")]


async def test_other_nodes_learn_nothing_of_the_owner(parts: Parts) -> None:
    """Neither tenant nor token."""
    described = parts.routing.describe(parts.claim(FakeHolder()))
    assert (described.label, described.tenant, described.token_id) == (CHAIN.label, "", "")


async def test_a_port_that_a_sibling_claims_is_not_given(parts: Parts) -> None:
    """The account sees the claims that siblings announce."""
    ports = parts.base.config.raw_ports
    account = parts.raw.sockets.account
    announced = TunnelInfo(label=CHAIN.label, region="fra", epoch=1, unencrypted_port=ports.first)
    parts.raw.siblings.bound("relay-2", announced)
    assert ports.first not in set(account.candidates("b" * 16, ports.first))
    assert ports.first in set(account.candidates(CHAIN.label, ports.first))
    parts.raw.sockets.close()


async def test_nothing_is_opened_or_started(parts: Parts) -> None:
    """Ports are opened when the node starts, and the registry is dialled then."""
    assert parts.base.address.listening.port == 0
    assert len(parts.raw.sockets) == 0
    assert not parts.routing.calls.connected
