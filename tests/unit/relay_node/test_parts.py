"""The parts of a node as they are put together: what one of them learns reaches those that act on it."""

import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_EPOCH, Routes
from portway_proto.v1.types_pb2 import NodeInfo, TunnelOptions
from portway_proto.wire.statements import SigningKey, read_presence
from portway_registry.pki.ca_folder import CaFolder
from portway_relay.config import NodeConfig, PortRange
from portway_relay.parts import (
    Base,
    RawPortParts,
    Routing,
    build_base,
    build_raw_ports,
    build_routing,
)
from portway_relay.raw_ports.account import Block
from portway_relay.raw_ports.tickets import Tickets
from portway_relay.routing.senders import NODE, REGISTRY, Sender
from portway_relay.serving_parts import Serving, build_serving
from portway_runtime import clocks
from portway_runtime.certificates import NamedFile, load_certified_key
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.tunnel_table import FakeHolder
from portway_testkit.links.carrier_link import until
from portway_testkit.processes.ports import raw_port_range
from portway_testkit.signers import CLUSTER_ID, SessionSigner, label_of, tunnel_info

KEY = SigningKey(b"\x07" * 32)
LABEL = label_of(KEY)


class Parts:
    """Every bundle of one node, nothing of it started."""

    def __init__(self, config: NodeConfig, failed: Callable[[BaseException], None]) -> None:
        # Budgets are of this clock: one that went on would fill them again while a test that uses one up is slow.
        self.clock = ManualClock()
        self.base: Base = build_base(config, failed, self.clock, clocks.wall_clock, clocks.counting_sleep)
        self.routing: Routing = build_routing(self.base)
        self.raw: RawPortParts = build_raw_ports(self.base, self.routing)
        self.serving: Serving = build_serving(self.base, self.routing, self.raw)
        self.routing.checks.learn_cluster(CLUSTER_ID)

    @property
    def now_ms(self) -> int:
        return self.base.registry_clock.now_ms()

    def bind(self, holder: FakeHolder) -> Any:
        claim = holder.signer.claim(KEY, node="relay-1", epoch=1)
        holder.presence = holder.signer.present("relay-1", time_ms=self.now_ms)
        return self.serving.table.bind(holder, claim, TunnelOptions(), None)


@pytest.fixture
async def parts(node_config: Callable[..., NodeConfig], certificate_files: dict[str, Any]) -> AsyncIterator[Parts]:
    failures: list[BaseException] = []
    parts = Parts(node_config(raw_ports=PortRange(*raw_port_range()), **certificate_files), failures.append)
    yield parts
    await parts.routing.peers.close()
    await parts.raw.siblings.close()
    await parts.routing.verification.close()
    parts.routing.checks.close()
    parts.raw.sockets.close()
    await parts.base.carrier.close()
    assert failures == []


def from_sibling(parts: Parts, *, port: int = 0, ticket: bytes = b"") -> tuple[Routes, Any]:
    """What a sibling announces of a client of its own, and the claim."""
    signer = SessionSigner()
    claim = signer.claim(KEY, node="relay-2", epoch=2, unencrypted=bool(port))
    presence = signer.present("relay-2", time_ms=parts.now_ms)
    return Routes(bound=[tunnel_info(claim, "fra", port=port, ticket=ticket)], presences=[presence.encoded]), claim


async def test_a_tunnel_that_its_client_has_bound_elsewhere_is_evicted(parts: Parts) -> None:
    """A sibling shows the claim and the presence, which are checked at once; the table takes the tunnel from its
    holder, who is shown the claim."""
    holder = FakeHolder()
    tunnel = parts.bind(holder)
    assert parts.routing.lookup.known(LABEL) is tunnel
    parts.routing.peers.learn(NodeInfo(name="relay-2", region="fra", host="127.0.0.1", port=1))
    message, claim = from_sibling(parts)
    requests: Any = parts.serving.inbound_lanes._events
    requests.routes_received("relay-2", message)
    await until(lambda: parts.routing.tunnels.live(LABEL) is None)
    assert [(taken, failure.code) for taken, failure in holder.taken] == [(tunnel, FAILURE_CODE_EPOCH)]
    assert holder.owners == [claim.encoded]


async def test_a_tunnel_that_is_bound_here_is_announced(parts: Parts) -> None:
    """Its claim is the highest that is known, and a registry hears of it with its session."""
    parts.routing.outbox.whole([])
    tunnel = parts.bind(FakeHolder(grant_token="a grant"))
    assert parts.routing.routes.highest(LABEL) == tunnel.claim
    batch = parts.routing.outbox.take()
    assert batch is not None
    assert [(one.label, one.node, one.claim) for one in batch.bound] == [(LABEL, "relay-1", tunnel.claim.encoded)]
    assert [one.grant for one in batch.sessions] == ["a grant"]


@pytest.mark.parametrize("owner", ["relay-2", "relay-3"])
async def test_a_siblings_raw_port_is_listened_on_by_its_owners_ticket(parts: Parts, owner: str) -> None:
    """With it the port is given to no other label here; the sibling's word alone is nothing."""
    port = parts.base.config.raw_ports.first
    parts.raw.owners.learn([(PortRange(port, port + 63), owner)])
    parts.routing.peers.learn(NodeInfo(name="relay-2", region="fra", host="127.0.0.1", port=1))
    pki = parts.base.config.cluster_ca.parent
    if not (pki / "node-relay-2.crt").exists():
        CaFolder.open(pki).add_node("relay-2")
    files = NamedFile(pki / "node-relay-2.crt"), NamedFile(pki / "node-relay-2.key")
    loaded = dataclasses.replace(parts.base.certificates.current(), node=load_certified_key(*files, clocks.utc_now()))
    tickets = Tickets("relay-2", "fra", lambda: loaded, clocks.wall_clock, parts.base.registry_clock)
    message, _ = from_sibling(parts, port=port, ticket=tickets.sign(LABEL, port).encoded)
    requests: Any = parts.serving.inbound_lanes._events
    (listening,) = requests.routes_received("relay-2", message)
    await listening
    account = parts.raw.sockets.account
    account.reserved([Block(PortRange(port, port + 1), fresh=True)], {})
    assert (port not in set(account.candidates("b" * 16, port))) is (owner == "relay-2")
    assert len(parts.raw.sockets) == (1 if owner == "relay-2" else 0)


async def test_a_sibling_that_has_used_up_its_budget_is_not_heard(parts: Parts) -> None:
    """Its flood costs nobody else's checks: the binding here stays until somebody else shows the claim."""
    parts.bind(FakeHolder())
    parts.routing.peers.learn(NodeInfo(name="relay-2", region="fra", host="127.0.0.1", port=1))
    parts.routing.checks.wait(Sender(NODE, "relay-2"), 1_000_000)
    message, claim = from_sibling(parts)
    requests: Any = parts.serving.inbound_lanes._events
    requests.routes_received("relay-2", message)
    await parts.routing.verification.settle(LABEL)
    assert parts.routing.tunnels.live(LABEL) is not None
    parts.routing.routes.hear_presence(REGISTRY, read_presence(message.presences[0]))
    assert parts.routing.routes.hear_claim(REGISTRY, claim)
    await parts.routing.verification.settle(LABEL)
    assert parts.routing.tunnels.live(LABEL) is None


async def test_nothing_is_opened_or_started(parts: Parts) -> None:
    """Ports are opened when the node starts, and the registry is dialled then."""
    assert parts.base.address.listening.port == 0
    assert len(parts.raw.sockets) == 0
    assert not parts.routing.calls.connected
