"""A node's table of tunnels with fake sessions, and what was announced of it.

Without sockets, except those of raw ports. Not here: sessions (node_sessions.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_REVOKED,
    Failure,
)
from portway_proto.wire.labels import Chain
from portway_relay.config import PortRange
from portway_relay.errors import Refused
from portway_relay.raw_ports.sockets import RawPorts
from portway_relay.raw_ports.token_rests import TokenRests
from portway_relay.routing.proofs import Proofs
from portway_relay.routing.table import TunnelTable
from portway_relay.routing.tunnel import HeldTunnels, Tunnel

from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.raw_ports import own_ports

CHAIN = Chain(b"\x01" * 32)
OTHER = Chain(b"\x02" * 32)
THIRD = Chain(b"\x03" * 32)
REVOKED = Failure(code=FAILURE_CODE_REVOKED, message="the token was revoked")

FreePorts = Callable[[int], PortRange]


@dataclass(eq=False)
class FakeHolder:
    """A session that records the tunnels that were taken from it."""

    token_id: str = "t1"
    max_tunnels: int = 0
    tenant: str = "acme"
    tenant_max_tunnels: int = 0
    pool: Any = None
    taken: list[tuple[Tunnel, Failure]] = field(default_factory=list)

    def tunnel_taken(self, tunnel: Tunnel, failure: Failure) -> None:
        self.taken.append((tunnel, failure))


class Announced:
    """The announcements for the registry, in order."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, int]] = []

    def bound(self, tunnel: Tunnel) -> None:
        assert tunnel.live
        self.all.append(("bound", tunnel.label, tunnel.epoch))

    def withdrawn(self, label: str, epoch: int) -> None:
        self.all.append(("withdrawn", label, epoch))

    def closed(self, tunnel: Tunnel) -> None:
        assert not tunnel.live
        self.all.append(("closed", tunnel.label, tunnel.epoch))


class KnownEpochs:
    """The routes as the table uses them: the highest known epochs, by label."""

    def __init__(self) -> None:
        self.by_label: dict[str, int] = {}
        self.superseded: Callable[[str, int], None] | None = None

    def epoch(self, label: str) -> int:
        return self.by_label.get(label, 0)

    def subscribe(self, superseded: Callable[[str, int], None]) -> None:
        self.superseded = superseded


class Node:
    """A table with everything around it."""

    def __init__(self, clock: ManualClock, ports: PortRange, *, most_resting: int = 32) -> None:
        self.announced = Announced()
        self.account = own_ports(ports, clock)
        raw = RawPorts("127.0.0.1", self.account, lambda label, sock, peer: sock.close())
        self.routes = KnownEpochs()
        self.known_epochs: dict[str, int] = self.routes.by_label
        self.tunnels = HeldTunnels()
        self.table = TunnelTable(
            self.tunnels,
            self.routes,
            raw,
            self.announced,
            proofs=Proofs(1_000, 5_000, clock),
            port_rests=TokenRests(most_resting, 60.0, clock),
            max_visits=3,
            clock=clock,
        )

    def claim(self, holder: FakeHolder, epoch: int = 1, chain: Chain = CHAIN, **options: Any) -> Tunnel:
        chosen = {"h2_enabled": False, "unencrypted": False, "wanted_port": None} | options
        proof = chosen.pop("proof") if "proof" in chosen else chain.proof(epoch)
        return self.table.claim(holder, chosen.pop("label", chain.label), epoch, proof, **chosen)

    def refused(self, holder: FakeHolder, epoch: int = 1, chain: Chain = CHAIN, **options: Any) -> Refused:
        """The refusal of a claim, which must change nothing."""
        before = self.state()
        with pytest.raises(Refused) as caught:
            self.claim(holder, epoch, chain, **options)
        assert self.state() == before
        return caught.value

    def state(self) -> tuple[object, ...]:
        live = {tunnel.label: (tunnel, tunnel.raw) for tunnel in self.tunnels.all_live()}
        return live, len(self.tunnels), self.account.held, self.account.resting, list(self.announced.all)


@pytest.fixture(name="node")
def table_node(clock: ManualClock) -> Node:
    """For tests without raw ports: none is opened."""
    return Node(clock, PortRange(20_000, 20_009))
