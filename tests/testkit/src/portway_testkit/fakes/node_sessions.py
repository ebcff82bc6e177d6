"""A node's sessions with nothing around them: decisions, certificates and raw ports are real, lanes and pools are not.

Here: the fakes, a client's side of a control lane in one line a request. Not here: the carrier (carriers.py).
"""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message
from portway_carrier.contract import FrameBudget, Lane, PoolCounts
from portway_carrier.errors import CarrierError, ConnectionLost
from portway_carrier.values import PoolLimits
from portway_proto.v1.lane_pb2 import (
    Bind,
    BindRefused,
    Bound,
    Failure,
    Goaway,
    Hello,
    Park,
    Unbind,
    Unbound,
    Welcome,
)
from portway_proto.v1.mesh_pb2 import ResolveResponse
from portway_proto.v1.types_pb2 import TunnelInfo, TunnelOptions
from portway_proto.wire.frames import FrameType, Opening, RefusalReason
from portway_proto.wire.labels import Chain
from portway_relay.certificates import Certificates
from portway_relay.config import NodeConfig
from portway_relay.net.node_address import PublicAddress
from portway_relay.raw_ports.region_addresses import RegionAddresses
from portway_relay.raw_ports.sibling_ports import SiblingClaims
from portway_relay.raw_ports.sockets import RawPorts
from portway_relay.raw_ports.tickets import Tickets
from portway_relay.raw_ports.token_rests import TokenRests
from portway_relay.routing.proofs import Proofs
from portway_relay.routing.table import TunnelTable
from portway_relay.routing.tunnel import HeldTunnels, Tunnel
from portway_relay.sessions.grants import GrantVerifier
from portway_relay.sessions.session import Session
from portway_relay.sessions.session_tunnels import SessionContext
from portway_relay.sessions.sessions import Sessions
from portway_runtime.endpoints import Endpoint

from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.raw_ports import own_ports
from portway_testkit.fakes.tunnel_table import KnownEpochs

M = TypeVar("M", bound=Message)

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
CLUSTER = "cluster-1"
PEER = Endpoint("192.0.2.9", 40_000)
_ANSWERS: dict[int, type[Message]] = {
    FrameType.WELCOME: Welcome,
    FrameType.BOUND: Bound,
    FrameType.BIND_REFUSED: BindRefused,
    FrameType.UNBOUND: Unbound,
    FrameType.GOAWAY: Goaway,
}


@dataclass(eq=False)
class FakeLane:
    """Records what the node does with a lane. `said` are the messages that it sent, parsed."""

    said: list[Message] = field(default_factory=list)
    failed: Failure | None = None
    refused: RefusalReason | None = None
    closed: bool = False
    aborted: bool = False
    budget: FrameBudget | None = None
    peer: Endpoint = PEER

    def send(self, frame_type: int, payload: bytes = b"") -> None:
        if not self.closed:
            self.said.append(_ANSWERS[frame_type].FromString(payload))

    def charge_to(self, budget: FrameBudget) -> None:
        self.budget = budget

    def refuse(self, reason: RefusalReason, message: str = "") -> None:
        self.refused = reason

    def fail(self, payload: bytes) -> None:
        if not self.closed:
            self.failed = Failure.FromString(payload)
        self.closed = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def take(self, kind: type[M]) -> M:
        """Remove and return the oldest message, which must be of this kind."""
        answer = self.said.pop(0)
        assert isinstance(answer, kind), f"expected {kind.__name__}: {answer}"
        return answer


@dataclass(eq=False)
class FakePool:
    """A session's pool as its owner uses it."""

    limits: PoolLimits
    lanes: list[Lane] = field(default_factory=list)
    control: Lane | None = None
    retired: bool = False
    closed: bool = False
    busy: int = 0

    @property
    def counts(self) -> PoolCounts:
        return PoolCounts(len(self.lanes), self.busy, 0)

    def park(self, lane: Lane) -> None:
        self.lanes.append(lane)

    def want(self, lanes: int) -> None:
        raise AssertionError("a node's pool does not dial")

    def attach_control(self, control: Lane | None) -> None:
        self.control = control

    def retire(self) -> None:
        self.retired = True

    def close(self) -> None:
        self.closed = True


class FakeCarrier:
    """Makes pools and records them."""

    def __init__(self) -> None:
        self.pools: list[FakePool] = []

    def pool(self, control: Lane | None, limits: PoolLimits) -> FakePool:
        self.pools.append(FakePool(limits))
        return self.pools[-1]


@dataclass(eq=False)
class FakeVisit:
    """A visit that can be cut."""

    opening: Opening = field(default_factory=lambda: Opening("a" * 16, "192.0.2.1", 1))
    bytes_in: int = 0
    bytes_out: int = 0
    buffered: int = 0
    is_cut: bool = False

    def cut(self) -> None:
        self.is_cut = True


class Heard:
    """The table's announcer."""

    def __init__(self) -> None:
        self.news: list[tuple[str, str, int]] = []

    def bound(self, tunnel: Tunnel) -> None:
        self.news.append(("bound", tunnel.label, tunnel.epoch))

    def withdrawn(self, label: str, epoch: int) -> None:
        self.news.append(("withdrawn", label, epoch))

    def closed(self, tunnel: Tunnel) -> None:
        assert not tunnel.live
        self.news.append(("closed", tunnel.label, tunnel.epoch))


class FakeRegion:
    """Siblings and a registry, which raw tunnels wait for; there is nothing to wait for unless a test sets it."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.rooms_asked = 0
        self.room_given: Callable[[], bool] = lambda: False
        self.known: dict[str, TunnelInfo] = {}
        self.resolved: list[str] = []
        self.failures: list[BaseException] = []

    async def room(self) -> bool:
        self.rooms_asked += 1
        return self.room_given()

    def taken(self) -> None:
        """Calls the reservation's callbacks; no registry is asked."""

    def unacknowledged(self) -> list[asyncio.Future[None]]:
        return [future for future in self.waiting if not future.done()]

    async def resolve(self, label: str) -> ResolveResponse | None:
        self.resolved.append(label)
        return ResolveResponse(tunnel=self.known[label]) if label in self.known else None


class Client:
    """One control lane as its client uses it."""

    def __init__(self, lane: FakeLane, session: Session, welcome: Welcome) -> None:
        self.lane = lane
        self.session = session
        self.welcome = welcome
        self.requests = 0

    def send(self, frame_type: int, message: Message | bytes) -> None:
        payload = message if isinstance(message, bytes) else message.SerializeToString()
        self.session.frame_received(self.lane, frame_type, payload)

    def ask(
        self,
        chain: Chain,
        epoch: int = 1,
        *,
        ticket: bytes = b"",
        proof: bytes | None = None,
        h2_enabled: bool = False,
        unencrypted: bool = False,
    ) -> None:
        """Send one BIND; the answer is in `lane.said`."""
        self.requests += 1
        bind = Bind(
            request=self.requests,
            label=chain.label,
            epoch=epoch,
            proof=chain.proof(epoch) if proof is None else proof,
            options=TunnelOptions(h2_enabled=h2_enabled, unencrypted=unencrypted),
            ticket=ticket,
        )
        self.send(FrameType.BIND, bind)

    def bind(self, chain: Chain, epoch: int = 1, *, ticket: bytes = b"", unencrypted: bool = False) -> Bound:
        """Send one BIND; returns the answer, which is BOUND."""
        self.ask(chain, epoch, ticket=ticket, unencrypted=unencrypted)
        return self.bound()

    def bound(self) -> Bound:
        """The answer to the last BIND, which is BOUND."""
        bound = self.lane.take(Bound)
        assert bound.request == self.requests
        return bound

    def refused(self) -> Failure:
        """The answer to the last BIND, which is BIND_REFUSED."""
        refused = self.lane.take(BindRefused)
        assert refused.request == self.requests
        return refused.failure

    def unbind(self, chain: Chain) -> None:
        self.send(FrameType.UNBIND, Unbind(label=chain.label))

    def leave(self) -> None:
        self.send(FrameType.GOAWAY, Goaway())

    def lose(self, error: CarrierError | None = None) -> None:
        """Lose the connection."""
        self.lane.closed = True
        self.session.lane_closed(self.lane, error or ConnectionLost("reset"))


class NodeSessions:
    """Sessions, and everything that they are given and ask."""

    def __init__(self, config: NodeConfig, clock: ManualClock) -> None:
        self.clock = clock
        self.carrier = FakeCarrier()
        self.grants = GrantVerifier(clock)
        self.grants.learn_keys(CLUSTER, {"k1": KEY.public_key().public_bytes_raw()})
        self.announced = Heard()
        # Label and epoch here; node, epoch and proof there, from MOVED of clients that leave.
        self.moved: list[tuple[str, int, str, int, bytes]] = []
        certificates = Certificates(config, lambda settings: None)
        account = own_ports(config.raw_ports, clock)
        self.raw_ports = RawPorts("127.0.0.1", account, lambda label, sock, peer: sock.close())
        self.region = FakeRegion()
        self.addresses = RegionAddresses(
            config.region,
            account,
            self.region,
            self.region,
            SiblingClaims(rest=config.limits.port_rest, clock=clock),
            self.region.resolve,
            on_failure=self.region.failures.append,
        )
        self.scarce = False  # memory
        self.tunnels = HeldTunnels()
        self.table = TunnelTable(
            self.tunnels,
            KnownEpochs(),
            self.raw_ports,
            self.announced,
            proofs=Proofs(1_000_000, 1_000_000, clock),
            port_rests=TokenRests(config.limits.max_resting_ports_per_token, config.limits.port_rest, clock),
            max_visits=10,
            clock=clock,
        )
        self.tickets = Tickets(certificates.current, config.region, clock)
        self.sessions = Sessions(
            config,
            self.carrier,  # type: ignore[arg-type]
            self.grants,
            SessionContext(
                config.limits,
                self.table,
                self.tickets,
                self.addresses,
                lambda: PublicAddress(config.zone, 443, "raw.example.com"),
                lambda tunnel, *where: self.moved.append((tunnel.label, tunnel.epoch, *where)),
                clock,
            ),
            wall_clock=clock,
            is_memory_scarce=lambda: self.scarce,
        )

    def grant(
        self, token_id: str = "t1", *, max_tunnels: int = 0, tenant: str = "acme", tenant_max_tunnels: int = 0
    ) -> str:
        now = int(self.clock())
        claims = {
            "iss": CLUSTER,
            "aud": "portway-node",
            "sub": tenant,
            "tid": token_id,
            "max_tunnels": max_tunnels,
            "tenant_max_tunnels": tenant_max_tunnels,
            "iat": now,
            "exp": now + 3600,
        }
        return jwt.encode(claims, KEY, algorithm="EdDSA", headers={"typ": "portway-grant", "kid": "k1"})

    def attach(self, grant: str = "", *, resume: Welcome | None = None) -> Client:
        """Send HELLO and receive WELCOME. Raises Refused."""
        hello = Hello(version=1, grant=grant or self.grant())
        if resume is not None:
            hello.session_id, hello.session_secret = resume.session_id, resume.session_secret
        lane = FakeLane()
        session = self.sessions.hello(lane, hello)
        return Client(lane, session, lane.take(Welcome))

    def park(self, welcome: Welcome, *, secret: bytes | None = None) -> FakeLane:
        lane = FakeLane()
        secret = welcome.session_secret if secret is None else secret
        self.sessions.park(lane, Park(version=1, session_id=welcome.session_id, session_secret=secret))
        return lane


_seeds = itertools.count(1)


def new_chain() -> Chain:
    """The chain of a label that no other test uses."""
    return Chain(next(_seeds).to_bytes(32, "big"))
