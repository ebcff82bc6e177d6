"""A node's sessions with nothing around them: decisions, certificates and raw ports are real, lanes and pools are not.

Here: the announcer, the region, a client's side of a control lane in one line a request. Not here: lanes and pools
(node_lanes.py).
"""

import asyncio
import base64
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message
from portway_carrier.errors import CarrierError, ConnectionLost
from portway_proto.v1.lane_pb2 import (
    Bind,
    BindRefused,
    Bound,
    Failure,
    Goaway,
    Hello,
    Moved,
    Park,
    Presence,
    Unbind,
    Welcome,
)
from portway_proto.wire.frames import FrameType
from portway_proto.wire.statements import Claim, SigningKey, sign_greeting
from portway_proto.wire.statements import Presence as PresenceStatement
from portway_relay.certificates import Certificates
from portway_relay.config import NodeConfig
from portway_relay.net.node_address import PublicAddress
from portway_relay.raw_ports.owners import PortOwners
from portway_relay.raw_ports.region_addresses import RegionAddresses
from portway_relay.raw_ports.sockets import RawPorts
from portway_relay.raw_ports.tickets import Tickets
from portway_relay.raw_ports.token_rests import TokenRests
from portway_relay.routing.routes import Routes
from portway_relay.routing.senders import TOKEN, Sender
from portway_relay.routing.statement_checks import StatementChecks
from portway_relay.routing.table import TunnelTable
from portway_relay.routing.tunnel import HeldTunnels, Holder, Tunnel
from portway_relay.routing.verification import Verification
from portway_relay.sessions.grants import GrantVerifier
from portway_relay.sessions.session import Session
from portway_relay.sessions.session_tunnels import SessionContext
from portway_relay.sessions.sessions import Sessions
from portway_runtime.clocks import RegistryClock
from portway_runtime.tasks import Tasks

from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.node_lanes import FakeCarrier, FakeLane
from portway_testkit.fakes.raw_ports import own_ports
from portway_testkit.signers import CLUSTER_ID, SessionSigner, label_of

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)


class Heard:
    """The announcer of the table and of sessions' presences; what is bound is remembered as the node does."""

    def __init__(self, routes: Routes) -> None:
        self.news: list[tuple[str, str, int]] = []
        self.presences: list[PresenceStatement] = []
        self._routes = routes

    def bound(self, tunnel: Tunnel) -> None:
        self._routes.bound_here(Sender(TOKEN, tunnel.holder.token_id), tunnel.claim)
        self.news.append(("bound", tunnel.label, tunnel.epoch))

    def withdrawn(self, tunnel: Tunnel) -> None:
        self.news.append(("withdrawn", tunnel.label, tunnel.epoch))

    def closed(self, tunnel: Tunnel) -> None:
        assert not tunnel.live
        self.news.append(("closed", tunnel.label, tunnel.epoch))

    def presence_renewed(self, holder: Holder, presence: PresenceStatement, tunnels: Iterable[Tunnel]) -> None:
        assert holder.presence is presence
        self.presences.append(presence)


class FakeRegion:
    """Siblings and a registry, which raw tunnels wait for; there is nothing to wait for unless a test sets it."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.rooms_asked = 0
        self.room_given: Callable[[], bool] = lambda: False

    async def room(self) -> bool:
        self.rooms_asked += 1
        return self.room_given()

    def taken(self) -> None:
        """Calls the reservation's callbacks; no registry is asked."""

    def unacknowledged(self) -> list[asyncio.Future[None]]:
        return [future for future in self.waiting if not future.done()]


class Client:
    """One control lane as its client uses it. A tunnel is named by its key."""

    def __init__(self, node: "NodeSessions", lane: FakeLane, session: Session, welcome: Welcome) -> None:
        self.node = node
        self.lane = lane
        self.session = session
        self.welcome = welcome
        self.requests = 0
        self.signer = node.signers[welcome.session_id]

    def send(self, frame_type: int, message: Message | bytes) -> None:
        payload = message if isinstance(message, bytes) else message.SerializeToString()
        self.session.frame_received(self.lane, frame_type, payload)

    def claim(self, key: SigningKey, epoch: int = 1, *, node: str = "relay-1", **options: bool) -> Claim:
        """A claim of this client, which takes the place of the one before."""
        held = self.signer.held
        held[:] = [one for one in held if one.key != key.public]
        return self.signer.claim(key, node=node, epoch=epoch, **options)

    def present(self, node: str = "relay-1", *claims: Claim, late: float = 0.0) -> PresenceStatement:
        """A presence, signed now or `late` seconds ago."""
        return self.signer.present(node, *claims, time_ms=self.node.next_ms() - int(late * 1000))

    def show(self, presence: PresenceStatement | None = None, grant: str = "") -> None:
        """Send PRESENCE: of all claims unless one is given."""
        statement = (presence or self.present()).encoded
        self.send(FrameType.PRESENCE, Presence(statement=statement, grant=grant))

    def say_bind(self, claim: Claim, ticket: bytes = b"") -> None:
        """Send one BIND."""
        self.requests += 1
        self.send(FrameType.BIND, Bind(request=self.requests, claim=claim.encoded, ticket=ticket))

    def ask(self, key: SigningKey, epoch: int = 1, *, ticket: bytes = b"", **options: Any) -> None:
        """Send PRESENCE and BIND, as a client does; with the same claim again when nothing has changed."""
        claim = next(
            (one for one in self.signer.held if (one.key, one.epoch) == (key.public, epoch) and not options), None
        ) or self.claim(key, epoch, **options)
        self.show()
        self.say_bind(claim, ticket)

    async def bind(self, key: SigningKey, epoch: int = 1, *, ticket: bytes = b"", **options: Any) -> Bound:
        """Send PRESENCE and BIND; returns the answer, which is BOUND."""
        self.ask(key, epoch, ticket=ticket, **options)
        return await self.bound()

    async def bound(self) -> Bound:
        """The answer to the last BIND, which is BOUND."""
        await until(lambda: bool(self.lane.said))
        bound = self.lane.take(Bound)
        assert bound.request == self.requests
        return bound

    async def refused(self) -> Failure:
        """The answer to the last BIND, which is BIND_REFUSED."""
        return (await self.refusal()).failure

    async def refusal(self) -> BindRefused:
        await until(lambda: bool(self.lane.said))
        refused = self.lane.take(BindRefused)
        assert refused.request == self.requests
        return refused

    def unbind(self, key: SigningKey) -> None:
        self.send(FrameType.UNBIND, Unbind(label=label_of(key)))

    def move(self, key: SigningKey, node: str, epoch: int = 2) -> None:
        """MOVED: the tunnel is bound at `node` now."""
        claim = self.claim(key, epoch, node=node)
        presence = self.present(node, claim)
        self.send(FrameType.MOVED, Moved(label=claim.label, claim=claim.encoded, presence=presence.encoded))

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
        self.grants.learn_keys(CLUSTER_ID, {"k1": KEY.public_key().public_bytes_raw()})
        self.signers: dict[bytes, SessionSigner] = {}  # by session id
        self._signers: dict[str, SessionSigner] = {}  # by grant
        self._times = itertools.count(1)
        self.certificates = Certificates(config, lambda settings: None)
        self.registry_clock = RegistryClock(clock, clock)
        self.failures: list[BaseException] = []
        self.checks = StatementChecks(
            config.limits.signature_checks_per_second, config.limits.signature_check_burst, clock
        )
        self.checks.learn_cluster(CLUSTER_ID)
        self.tickets = Tickets(config.name, config.region, self.certificates.current, clock, self.registry_clock)
        account = own_ports(config.raw_ports, clock)
        self.owners = PortOwners(config.name, account.is_mine)
        self.raw_ports = RawPorts("127.0.0.1", account, self.tickets.sign, lambda label, sock, peer: sock.close())
        self.region = FakeRegion()
        self.addresses = RegionAddresses(account, self.region, self.region)
        self.scarce = False  # memory
        self.tunnels = HeldTunnels()
        self.pools: dict[str, Any] = {"fra-2": object()}
        self.routes = Routes(config.name, self.pools.get, self.tunnels.claim, clock, self.registry_clock)
        self.verification = Verification(self.routes, self.checks, on_failure=self.failures.append)
        self.announced = Heard(self.routes)
        self.table = TunnelTable(
            self.tunnels,
            self.routes,
            self.raw_ports,
            self.announced,
            port_rests=TokenRests(config.limits.max_resting_ports_per_token, config.limits.port_rest, clock),
            max_visits=10,
            clock=clock,
        )
        self.tasks = Tasks("sessions", self.failures.append)
        self.sessions = Sessions(
            config,
            self.carrier,  # type: ignore[arg-type]
            self.grants,
            SessionContext(
                config.name,
                config.limits,
                self.grants,
                self.table,
                self.routes,
                self.verification,
                self.checks,
                self.announced,
                self.tickets,
                self.owners,
                self.addresses,
                lambda: PublicAddress(config.zone, 443, "raw.example.com"),
                self.tasks,
                clock,
                self.registry_clock,
            ),
            self.certificates.own,
            wall_clock=clock,
            is_memory_scarce=lambda: self.scarce,
        )

    async def close(self) -> None:
        self.sessions.close()
        await self.tasks.close()
        await self.verification.close()
        self.checks.close()
        assert not self.failures

    def next_ms(self) -> int:
        """The time, a little later with each call."""
        return self.registry_clock.now_ms() + next(self._times)

    def grant(
        self,
        token_id: str = "t1",
        *,
        max_tunnels: int = 0,
        tenant: str = "acme",
        tenant_max_tunnels: int = 0,
        signer: SessionSigner | None = None,
        **changes: Any,
    ) -> str:
        """A grant for the session key of `signer`, a new one by default."""
        signer = signer or SessionSigner()
        now = int(self.clock())
        claims = {
            "iss": CLUSTER_ID,
            "aud": "portway-node",
            "sub": tenant,
            "tid": token_id,
            "key": base64.urlsafe_b64encode(signer.key.public).decode().rstrip("="),
            "max_tunnels": max_tunnels,
            "tenant_max_tunnels": tenant_max_tunnels,
            "iat": now,
            "exp": now + 3600,
        }
        encoded = jwt.encode(claims | changes, KEY, algorithm="EdDSA", headers={"typ": "portway-grant", "kid": "k1"})
        self._signers[encoded] = signer
        return encoded

    def hello(self, grant: str = "", *, resume: Welcome | None = None) -> Hello:
        """HELLO as a client sends it; a client that resumes has the session key that it had."""
        if not grant:
            known = None if resume is None else self.signers.get(resume.session_id)
            grant = self.grant(signer=known)
        signer = self._signers.get(grant) or SessionSigner()
        (certificate, *_) = self.certificates.own()
        signature = sign_greeting(signer.key, self.checks.cluster, "relay-1", certificate)
        hello = Hello(version=2, grant=grant, signature=signature)
        if resume is not None:
            hello.session_id, hello.session_secret = resume.session_id, resume.session_secret
        return hello

    async def attach(self, grant: str = "", *, resume: Welcome | None = None) -> Client:
        """Send HELLO and receive WELCOME. Raises Refused."""
        hello = self.hello(grant, resume=resume)
        lane = FakeLane()
        session = await self.sessions.hello(lane, hello)
        welcome = lane.take(Welcome)
        self.signers[welcome.session_id] = self._signers[hello.grant]
        return Client(self, lane, session, welcome)

    def park(self, welcome: Welcome, *, secret: bytes | None = None) -> FakeLane:
        lane = FakeLane()
        secret = welcome.session_secret if secret is None else secret
        self.sessions.park(lane, Park(version=2, session_id=welcome.session_id, session_secret=secret))
        return lane


async def until(condition: Callable[[], bool]) -> None:
    """Run the loop until the condition is true, within the test's own time limit."""
    while not condition():  # noqa: ASYNC110 - signatures are checked on a thread, whose answer comes with a turn
        await asyncio.sleep(0.001)


_seeds = itertools.count(1)


def new_key() -> SigningKey:
    """The key of a tunnel that no other test uses."""
    return SigningKey(next(_seeds).to_bytes(32, "big"))
