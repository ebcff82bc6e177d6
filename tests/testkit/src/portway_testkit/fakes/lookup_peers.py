"""A look-up with fake siblings, mesh and registry to ask."""

import asyncio
from typing import Any

from portway_carrier.values import PoolCounts
from portway_proto.v1.lane_pb2 import Answer
from portway_proto.v1.mesh_pb2 import ResolveResponse
from portway_proto.v1.types_pb2 import NodeInfo
from portway_proto.wire.limits import YOUNG
from portway_proto.wire.statements import Claim, Presence, SigningKey
from portway_relay.routing.first_seconds import FirstSeconds
from portway_relay.routing.lookup import Lookup
from portway_relay.routing.routes import Routes
from portway_relay.routing.senders import NODE, TOKEN, Sender
from portway_relay.routing.statement_checks import StatementChecks
from portway_relay.routing.verification import Verification
from portway_runtime.clocks import RegistryClock

from portway_testkit.fakes.clock import ManualClock
from portway_testkit.signers import CLUSTER_ID, NOW_MS, SessionSigner, label_of, tunnel_info
from portway_testkit.waiting import PATIENCE

KEY = SigningKey(b"\x06" * 32)
LABEL = label_of(KEY)


class FakePool:
    """The lanes to a node, all in use."""

    def __init__(self) -> None:
        self.counts = PoolCounts(idle=0, busy=1, waiting=0)


class Around:
    """A look-up of a node that is no longer young, and everything that it can ask. No question is answered before
    `answer` is set. Each epoch of the label is of a session key of its own."""

    def __init__(
        self,
        clock: ManualClock,
        failures: list[BaseException],
        rate: float = 3,
        *,
        young: bool = False,
        time_limit: float = PATIENCE,
    ) -> None:
        """time_limit: seconds for one label, in which a thread checks its signatures."""
        self.pools: dict[str, Any] = {"a": FakePool(), "b": FakePool()}
        self.tunnels: dict[str, Any] = {}
        self.down: set[str] = set()
        self.away = 5.0  # seconds for which those have been away
        self.asked: list[str] = []
        self.registry: dict[str, ResolveResponse] = {}  # what a replica has in memory
        self.store: dict[str, ResolveResponse] = {}
        self.nodes: list[tuple[str, Answer]] = []
        self.closed: dict[str, int] = {}  # by label, the epoch with which a node says it was closed
        self.asked_also: list[str | None] = []
        self.answer = asyncio.Event()
        self.answer.set()
        self.clock = clock
        ahead = NOW_MS / 1000 - clock()
        self.registry_clock = RegistryClock(lambda: clock() + ahead, clock)
        self.routes = Routes("here", self.pools.get, self.claim, clock, self.registry_clock)
        self.routes.subscribe(self.superseded)
        self.checks = StatementChecks(10_000, 10_000, clock)
        self.checks.learn_cluster(CLUSTER_ID)
        self.verification = Verification(self.routes, self.checks, on_failure=failures.append)
        self.first_seconds = FirstSeconds(3.0, clock)
        tunnels: Any = self
        self.lookup = Lookup(
            tunnels,
            self.routes,
            self.verification,
            self,
            self.resolve,
            self.first_seconds,
            rate=rate,
            time_limit=time_limit,
            clock=clock,
            on_failure=failures.append,
        )
        self._statements: dict[tuple[str, int, bytes], tuple[Claim, Presence]] = {}
        if not young:
            clock.now += YOUNG

    async def close(self) -> None:
        await self.lookup.close()
        await self.verification.close()
        self.checks.close()

    def superseded(self, claim: Claim) -> None:
        held = self.tunnels.get(claim.label)
        if held is not None and held.claim.rank < claim.rank:
            del self.tunnels[claim.label]

    # The methods of tunnels, mesh and registry.

    def live(self, label: str) -> Any:
        return self.tunnels.get(label)

    def claim(self, label: str) -> Claim | None:
        held = self.tunnels.get(label)
        return None if held is None else held.claim

    def learn(self, node: NodeInfo) -> None:
        self.pools.setdefault(node.name, FakePool())

    def answers(self, node: str) -> bool:
        return node in self.pools and node not in self.down

    def down_for(self, node: str) -> float:
        return 0.0 if self.answers(node) else self.away

    async def ask_region(self, region: str, label: str, also: str | None) -> list[tuple[str, Answer]]:
        self.asked.append(f"region {region}")
        self.asked_also.append(also)
        await self.answer.wait()
        closed = [(node, Answer(closed_epoch=epoch)) for node, epoch in self.closed.items()]
        return self.nodes + closed

    async def resolve(self, label: str, *, current: bool = False) -> ResolveResponse | None:
        self.asked.append("registry's store" if current else "registry")
        await self.answer.wait()
        return (self.store if current else self.registry).get(label)

    # What a test says.

    def statements(self, node: str, epoch: int = 1, key: SigningKey = KEY) -> tuple[Claim, Presence]:
        """Claim and presence that place the label there; the same ones each time."""
        known = self._statements.get((node, epoch, key.public))
        if known is None:
            signer = SessionSigner()
            claim = signer.claim(key, node=node, epoch=epoch)
            known = claim, signer.present(node, time_ms=self.registry_clock.now_ms())
            self._statements[node, epoch, key.public] = known
        return known

    def told(self, node: str, epoch: int = 1) -> None:
        """A node announces the label."""
        claim, presence = self.statements(node, epoch)
        self.routes.hear_presence(Sender(NODE, node), presence)
        self.routes.hear_claim(Sender(NODE, node), claim)

    async def knows(self, node: str, epoch: int = 1) -> Any:
        """The route, once a node has announced it and it was verified."""
        self.told(node, epoch)
        await self.verification.settle(LABEL)
        return self.routes.placed(LABEL)

    def answered(self, node: str, epoch: int = 1, key: SigningKey = KEY) -> tuple[str, Answer]:
        """What a node answers that holds the label."""
        claim, presence = self.statements(node, epoch, key)
        return node, Answer(tunnel=tunnel_info(claim), presence=presence.encoded)

    def registered(self, node: str, epoch: int = 1, key: SigningKey = KEY) -> None:
        """A registry has the label there."""
        self.registry[LABEL] = self.made(node, epoch, key)

    def made(self, node: str, epoch: int = 1, key: SigningKey = KEY) -> ResolveResponse:
        """What a registry answers that has the label there."""
        claim, presence = self.statements(node, epoch, key)
        return ResolveResponse(tunnel=tunnel_info(claim), node=NodeInfo(name=node), presence=presence.encoded)

    def moved_to(self, node: str) -> None:
        """The client that held the label here has announced that it is at this node now, with epoch 2."""
        token = Sender(TOKEN, "t1")
        self.routes.bound_here(token, self.statements("here")[0])
        claim, presence = self.statements(node, 2)
        self.routes.hear_moved(token, claim, presence)

    async def find(self, label: str = LABEL, address: str = "192.0.2.1") -> tuple[str, int] | str | None:
        found: Any = await self.lookup.find(label, "fra", address)
        return found if found is None or isinstance(found, str) else (found.node, found.epoch)

    async def elsewhere(self, not_at: Any, *, denied: bool = True) -> tuple[str, int] | None:
        found: Any = await self.lookup.find_elsewhere(LABEL, "fra", not_at=not_at, denied=denied)
        return None if found is None else (found.node, found.epoch)

    async def again(self, not_at: Any, *, within: float = 30.0, or_there: bool = False) -> tuple[str, int] | None:
        found: Any = await self.lookup.find_again(LABEL, "fra", not_at=not_at, within=within, or_there=or_there)
        return None if found is None else (found.node, found.epoch)


class Held:
    """A tunnel of this node."""

    def __init__(self, around: Around, epoch: int = 1) -> None:
        self.node = "here"
        self.epoch = epoch
        self.claim, _ = around.statements("here", epoch)
