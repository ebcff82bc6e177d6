"""A look-up with fake siblings, mesh and registry to ask."""

import asyncio
from types import SimpleNamespace
from typing import Any

from portway_proto.v1.lane_pb2 import Answer
from portway_proto.v1.mesh_pb2 import ResolveResponse
from portway_proto.v1.types_pb2 import NodeInfo, TunnelInfo
from portway_proto.wire.labels import Chain
from portway_relay.routing.lookup import Lookup
from portway_relay.routing.proofs import Proofs
from portway_relay.routing.routes import Routes

from portway_testkit.fakes.clock import ManualClock

CHAIN = Chain(b"\x06" * 32)
LABEL = CHAIN.label


def tunnel(node: str, epoch: int = 1, chain: Chain = CHAIN) -> TunnelInfo:
    return TunnelInfo(label=chain.label, node=node, epoch=epoch, proof=chain.proof(epoch))


class Around:
    """A look-up and everything that it can ask. No question is answered before `answer` is set."""

    def __init__(self, clock: ManualClock, failures: list[BaseException], rate: float = 3) -> None:
        self.pools: dict[str, Any] = {"a": object(), "b": object()}
        self.tunnels: dict[str, Any] = {}
        self.down: set[str] = set()
        self.asked: list[str] = []
        self.registry: dict[str, ResolveResponse] = {}
        self.nodes: list[TunnelInfo] = []
        self.closed: dict[str, int] = {}  # by label, the epoch with which a node says it was closed
        self.asked_also: list[str | None] = []
        self.answer = asyncio.Event()
        self.answer.set()
        self.routes = Routes("here", self.pools.get, lambda label: 0, Proofs(1_000, 5_000, clock), clock)
        self.routes.subscribe(self.superseded)
        tunnels: Any = self
        self.lookup = Lookup(
            "fra",
            tunnels,
            self.routes,
            self,
            self.resolve,
            rate=rate,
            time_limit=0.05,
            clock=clock,
            on_failure=failures.append,
        )

    def superseded(self, label: str, epoch: int) -> None:
        held = self.tunnels.get(label)
        if held is not None and held.epoch <= epoch:
            del self.tunnels[label]

    # The methods of tunnels, mesh and registry.

    def live(self, label: str) -> Any:
        return self.tunnels.get(label)

    def learn(self, node: NodeInfo) -> None:
        self.pools.setdefault(node.name, object())

    def answers(self, node: str) -> bool:
        return node in self.pools and node not in self.down

    async def ask_region(self, region: str, label: str, also: str | None) -> list[tuple[str, Answer]]:
        self.asked.append(f"region {region}")
        self.asked_also.append(also)
        await self.answer.wait()
        closed = [(node, Answer(closed_epoch=epoch)) for node, epoch in self.closed.items()]
        return [(tunnel.node, Answer(tunnel=tunnel)) for tunnel in self.nodes] + closed

    async def resolve(self, label: str) -> ResolveResponse | None:
        self.asked.append("registry")
        await self.answer.wait()
        return self.registry.get(label)

    def registered(self, node: str, epoch: int = 1) -> None:
        self.registry[LABEL] = ResolveResponse(tunnel=tunnel(node, epoch), node=NodeInfo(name=node))

    def moved_to(self, node: str) -> None:
        """The client that held the label here has announced that it is at this node now, with epoch 2."""
        self.routes.bound_here(LABEL, 1)
        here: Any = SimpleNamespace(label=LABEL, epoch=1, h2_enabled=False, holder=SimpleNamespace(token_id="t1"))
        self.routes.client_moved(here, node, 2, CHAIN.proof(2))

    async def find(self, label: str = LABEL, address: str = "192.0.2.1") -> tuple[str, int] | str | None:
        found: Any = await self.lookup.find(label, "fra", address)
        return found if found is None or isinstance(found, str) else (found.node, found.epoch)

    async def elsewhere(self, not_at: Any, *, denied: bool = True) -> tuple[str, int] | None:
        found: Any = await self.lookup.find_elsewhere(LABEL, "fra", not_at=not_at, denied=denied)
        return None if found is None else (found.node, found.epoch)


class Held:
    """A tunnel of this node."""

    def __init__(self, epoch: int = 1) -> None:
        self.node = "here"
        self.epoch = epoch
