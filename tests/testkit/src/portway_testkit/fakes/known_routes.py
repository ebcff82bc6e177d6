"""A node's memory of routes alone: what it learns, and where visitors would be sent."""

from types import SimpleNamespace
from typing import Any

from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.labels import Chain
from portway_relay.routing.proofs import Proofs
from portway_relay.routing.routes import Routes

from portway_testkit.fakes.clock import ManualClock

CHAIN = Chain(b"\x05" * 32)
LABEL = CHAIN.label


class KnownRoutes:
    """Routes of node `here`, which knows the nodes a, b and c."""

    def __init__(self, clock: ManualClock) -> None:
        self.pools: dict[str, Any] = {name: object() for name in ("here", "a", "b", "c")}
        self.held: dict[str, int] = {}
        self.superseded: list[tuple[str, int]] = []
        self.proofs = Proofs(1_000, 10_000, clock)
        self.routes = Routes(
            "here",
            self.pools.get,
            lambda label: self.held.get(label, 0),
            self.proofs,
            clock,
        )
        self.routes.subscribe(lambda label, epoch: self.superseded.append((label, epoch)))

    def learn(self, node: str, epoch: int, chain: Chain = CHAIN, **changes: Any) -> bool:
        """Learn a route. Returns whether it was believed."""
        from_registry = changes.pop("from_registry", False)
        tunnel = TunnelInfo(label=chain.label, node=node, epoch=epoch, proof=chain.proof(epoch))
        tunnel.MergeFrom(TunnelInfo(**changes))
        return self.routes.learn(tunnel, from_registry=from_registry) is not None

    def hint(self, node: str, epoch: int, *, proof: bytes | None = None, held: int = 1) -> bool:
        """Learn MOVED of a tunnel that is held here. Returns whether visitors would follow it."""
        self.held[LABEL] = held
        tunnel: Any = SimpleNamespace(label=LABEL, epoch=held, h2_enabled=True, holder=SimpleNamespace(token_id="t1"))
        self.routes.client_moved(tunnel, node, epoch, CHAIN.proof(epoch) if proof is None else proof)
        self.held.clear()
        self.routes._own_epochs[LABEL] = held
        return self.at() == (node, epoch)

    def at(self) -> tuple[str, int] | None:
        """The node to which a visitor would be sent."""
        route = self.routes.get(LABEL)
        return None if route is None else (route.node, route.epoch)
