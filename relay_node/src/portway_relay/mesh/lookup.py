"""Finding a label: on this node, in memory, at a registry, at the nodes of the label's own region (DESIGN §7).

Here: who is asked, how often, for how long; one question for all who wait for the same name. Not here: what is
remembered (routes.py).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from portway_proto.carry.tasks import Tasks
from portway_proto.v1.mesh_pb2 import ResolveResponse
from portway_proto.v1.types_pb2 import NodeInfo, TunnelInfo

from portway_relay.clock import Monotonic
from portway_relay.ingress.rate import Bucket
from portway_relay.mesh.routes import Route, Routes
from portway_relay.tunnels.table import TunnelTable
from portway_relay.tunnels.tunnel import Tunnel

logger = logging.getLogger(__name__)

Destination = Tunnel | Route
Found = Callable[[Destination | None], None]

# So many names at once; whoever guesses names gets "unknown" faster, and tunnels in use never wait for an answer.
_MOST: Final = 1_024


class Mesh(Protocol):
    """Who is asked besides a registry."""

    def learn(self, node: NodeInfo) -> object: ...

    async def ask_region(self, region: str, label: str) -> TunnelInfo | None: ...


Resolve = Callable[[str], Awaitable[ResolveResponse | None]]


class Lookup:
    """Where a visitor of a label is to go."""

    def __init__(
        self,
        table: TunnelTable,
        routes: Routes,
        mesh: Mesh,
        resolve: Resolve,
        *,
        a_second: float,
        time_limit: float,
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`resolve` asks a registry; None when it says nobody has the label. Raises RegistryAway.

        `a_second` bounds how many unknown names are asked for, `time_limit` (seconds) for how long.
        """
        self._table = table
        self._routes = routes
        self._mesh = mesh
        self._resolve = resolve
        self._rate = Bucket(a_second, a_second, clock)
        self._time_limit = time_limit
        self._tasks = Tasks("lookup", on_failure)
        self._asking: dict[str, asyncio.Task[Destination | None]] = {}

    def __len__(self) -> int:
        """Names that are being asked for."""
        return len(self._asking)

    def known(self, label: str) -> Destination | None:
        """What is known without asking."""
        return self._table.live(label) or self._routes.get(label)

    async def find(self, label: str, region: str) -> Destination | None:
        """Ask if need be; None when nobody has it, or too many names are being asked for."""
        return self.known(label) or await self._ask(label, region)

    async def elsewhere(self, label: str, region: str, *, not_at: object) -> Destination | None:
        """Where it is when it is not where it was thought to be."""
        if isinstance(not_at, Route):
            self._routes.forget(label, not_at.node, not_at.epoch)
        found = self.known(label)
        if found is None or found is not_at:
            found = await self._ask(label, region)
        return None if found is None or _same(found, not_at) else found

    async def close(self) -> None:
        await self._tasks.close()

    async def _ask(self, label: str, region: str) -> Destination | None:
        asking = self._asking.get(label)
        if asking is None:
            if self._routes.is_unknown(label) or len(self._asking) >= _MOST or not self._rate.take():
                return None
            asking = self._tasks.spawn(self._ask_everybody(label, region), name="ask for a label")
            self._asking[label] = asking
            asking.add_done_callback(lambda _: self._asking.pop(label, None))
        return await asyncio.shield(asking)

    async def _ask_everybody(self, label: str, region: str) -> Destination | None:
        try:
            async with asyncio.timeout(self._time_limit):
                await self._ask_registry(label)
                if self.known(label) is None:
                    tunnel = await self._mesh.ask_region(region, label)
                    if tunnel is not None:
                        self._routes.learn(tunnel)
        except TimeoutError:
            logger.info("a label was asked for in vain: no answer in time")
            return self.known(label)
        found = self.known(label)
        if found is None:
            self._routes.nobody_knows(label)
        return found

    async def _ask_registry(self, label: str) -> None:
        answer = await self._resolve(label)
        if answer is not None and answer.tunnel.label == label:
            if answer.HasField("node"):
                self._mesh.learn(answer.node)
            self._routes.learn(answer.tunnel, from_registry=True)


def _same(found: Destination, before: object) -> bool:
    if isinstance(found, Route) and isinstance(before, Route):
        return (found.node, found.epoch) == (before.node, before.epoch)
    return found is before
