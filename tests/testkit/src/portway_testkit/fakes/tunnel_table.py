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
from portway_proto.v1.types_pb2 import TunnelOptions
from portway_proto.wire.statements import Claim, Presence, SigningKey
from portway_relay.config import PortRange
from portway_relay.errors import Refused
from portway_relay.raw_ports.sockets import RawPorts
from portway_relay.raw_ports.tickets import Ticket
from portway_relay.raw_ports.token_rests import TokenRests
from portway_relay.routing.table import TunnelTable
from portway_relay.routing.tunnel import HeldTunnels, Tunnel

from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.raw_ports import own_ports, signed_by
from portway_testkit.signers import SessionSigner, label_of

KEY = SigningKey(b"\x01" * 32)
OTHER = SigningKey(b"\x02" * 32)
THIRD = SigningKey(b"\x03" * 32)
LABEL = label_of(KEY)
REVOKED = Failure(code=FAILURE_CODE_REVOKED, message="the token was revoked")

FreePorts = Callable[[int], PortRange]


@dataclass(eq=False)
class FakeHolder:
    """A session that records the tunnels that were taken from it, with the claims that own them."""

    token_id: str = "t1"
    max_tunnels: int = 0
    tenant: str = "acme"
    tenant_max_tunnels: int = 0
    pool: Any = None
    grant_token: str = ""
    presence: Presence | None = None
    taken: list[tuple[Tunnel, Failure]] = field(default_factory=list)
    owners: list[bytes] = field(default_factory=list)
    signer: SessionSigner = field(default_factory=SessionSigner)

    def tunnel_taken(self, tunnel: Tunnel, failure: Failure, claim: bytes = b"") -> None:
        self.taken.append((tunnel, failure))
        self.owners.append(claim)


class Announced:
    """The announcements for the registry, in order."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, int]] = []

    def bound(self, tunnel: Tunnel) -> None:
        assert tunnel.live
        self.all.append(("bound", tunnel.label, tunnel.epoch))

    def withdrawn(self, tunnel: Tunnel) -> None:
        self.all.append(("withdrawn", tunnel.label, tunnel.epoch))

    def closed(self, tunnel: Tunnel) -> None:
        assert not tunnel.live
        self.all.append(("closed", tunnel.label, tunnel.epoch))


class KnownClaims:
    """The routes as the table uses them: the genuine claims of highest rank, by label."""

    def __init__(self) -> None:
        self.by_label: dict[str, Claim] = {}
        self.superseded: Callable[[Claim], None] | None = None

    def highest(self, label: str) -> Claim | None:
        return self.by_label.get(label)

    def subscribe(self, superseded: Callable[[Claim], None]) -> None:
        self.superseded = superseded


class Node:
    """A table with everything around it."""

    def __init__(self, clock: ManualClock, ports: PortRange, *, most_resting: int = 32) -> None:
        self.announced = Announced()
        self.account = own_ports(ports, clock)
        raw = RawPorts("127.0.0.1", self.account, signed_by("here"), lambda label, sock, peer: sock.close())
        self.routes = KnownClaims()
        self.tunnels = HeldTunnels()
        self.table = TunnelTable(
            self.tunnels,
            self.routes,
            raw,
            self.announced,
            port_rests=TokenRests(most_resting, 60.0, clock),
            max_visits=3,
            clock=clock,
        )

    def bind(
        self,
        holder: FakeHolder,
        epoch: int = 1,
        key: SigningKey = KEY,
        *,
        claim: Claim | None = None,
        ticket: Ticket | None = None,
        **options: bool,
    ) -> Tunnel:
        """Bind a label by a claim of this holder, or by the given one."""
        claim = claim or holder.signer.claim(key, node="here", epoch=epoch, **options)
        return self.table.bind(holder, claim, TunnelOptions.FromString(claim.options), ticket)

    def refused(self, holder: FakeHolder, epoch: int = 1, key: SigningKey = KEY, **options: Any) -> Refused:
        """The refusal of a claim, which must change nothing."""
        before = self.state()
        with pytest.raises(Refused) as caught:
            self.bind(holder, epoch, key, **options)
        assert self.state() == before
        return caught.value

    def state(self) -> tuple[object, ...]:
        live = {tunnel.label: (tunnel, tunnel.raw) for tunnel in self.tunnels.all_live()}
        return live, len(self.tunnels), self.account.held, self.account.resting, list(self.announced.all)


@pytest.fixture(name="node")
def table_node(clock: ManualClock) -> Node:
    """For tests without raw ports: none is opened."""
    return Node(clock, PortRange(20_000, 20_009))
