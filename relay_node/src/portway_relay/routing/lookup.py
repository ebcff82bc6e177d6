"""Finding a label: on this node, in memory, at a registry, at the nodes of the label's own region (DESIGN §7).

Here: who is asked, how often, for how long; one question for all who wait for the same name. Not here: what is
remembered (routes.py).
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from portway_proto.v1.lane_pb2 import Answer
from portway_proto.v1.mesh_pb2 import ResolveResponse
from portway_proto.v1.types_pb2 import NodeInfo
from portway_runtime.clocks import Monotonic
from portway_runtime.rates import TokenBucket
from portway_runtime.tasks import Tasks

from portway_relay.routing.routes import Belief, Route, Routes
from portway_relay.routing.table import TunnelTable
from portway_relay.routing.tunnel import Tunnel

logger = logging.getLogger(__name__)

Destination = Tunnel | Route

# So many names at once; whoever guesses names gets "unknown" faster, and tunnels in use never wait for an answer.
_MOST: Final = 1_024
# Of them such as may be guesses: a quarter of a second's at the pace that they are asked for, which a registry on the
# same continent needs a tenth of. One that is slow to answer must not leave a question's 40 KB to each of more.
_MOST_GUESSES: Final = 128
_ONCE: Final = (0.0,)
_TOLD_BY: Final = {Belief.HINTED: "client", Belief.TOLD: "region", Belief.CONFIRMED: "registry"}
# A client that moves binds its tunnels at the new node within a round trip or two of leaving the old one, and a second
# after a node has died; the news take milliseconds. Visitors of a name that was good a moment ago wait that long. One
# that its client has closed is a name like those that never were, also in the time that the answer takes.
_PAUSES: Final = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)


class Mesh(Protocol):
    """Who is asked besides a registry."""

    def learn(self, node: NodeInfo) -> object: ...

    def answers(self, node: str) -> bool:
        """Whether a node is heard from now."""
        ...

    async def ask_region(self, region: str, label: str, also: str | None) -> list[tuple[str, Answer]]:
        """What each node of the region that answers says of a label, and the node `also`."""
        ...


Resolve = Callable[[str], Awaitable[ResolveResponse | None]]


class Lookup:
    """Where a visitor of a label is to go."""

    def __init__(
        self,
        region: str,
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
        """`resolve` asks a registry; None when it says nobody has the label, or cannot be asked.

        `region` is this node's own. `a_second` bounds how many unknown names are asked for, `time_limit` (seconds) for
        how long.
        """
        self._region = region
        self._table = table
        self._routes = routes
        self._mesh = mesh
        self._resolve = resolve
        self._rate = TokenBucket(a_second, a_second, clock)
        self._time_limit = time_limit
        self._tasks = Tasks("lookup", on_failure)
        self._asking: dict[str, asyncio.Task[None]] = {}
        self.answers: Counter[tuple[str, str]] = Counter()  # by who answered and what, for metrics

    def __len__(self) -> int:
        """Names that are being asked for."""
        return len(self._asking)

    def known(self, label: str, region: str) -> Destination | None:
        """Where a visitor of a name in `region` can go without anybody being asked.

        None too when the way there is down, and when a sibling has claimed a name of another region unasked: tunnels do
        come over, but whoever is at home there would not hear of a false claim.
        """
        tunnel = self._table.live(label)
        if tunnel is not None:
            self.answers["here", "found"] += 1
            return tunnel
        route = self._routes.get(label)
        if route is None or not self._mesh.answers(route.node):
            return None
        if route.belief is Belief.TOLD and not route.asked and region != self._region:
            return None
        self.answers["memory", "found"] += 1
        return route

    async def find(self, label: str, region: str) -> Destination | None:
        """Ask if need be; None when nobody has it, or too many names are being asked for.

        Of a route whose node does not answer something newer may be known to others; without that it stays.
        """
        found, last = self.known(label, region), self._routes.last(label)
        moving = self._routes.is_moving(label)
        if found is not None:
            return found
        if not moving and self._routes.is_unknown(label):
            self.answers["memory", "unknown"] += 1
            return None
        for pause in _PAUSES if moving else _ONCE:
            await asyncio.sleep(pause)
            asked = await self._ask(label, region, scan=not moving)
            found = self._believed(label)
            if found is not None and not self._is_lost(found, last):
                self.answers[_who_told(found), "found"] += 1
                return found
            moving = self._routes.is_moving(label)
            if found is None and not moving:
                break
        if found is not None:
            self.answers["memory", "found"] += 1
            return found
        self.answers["nobody", "unknown" if asked else "not_asked"] += 1
        if asked and not moving:
            self._routes.nobody_knows(label)
        return None

    async def elsewhere(self, label: str, region: str, *, not_at: object, gone: bool) -> Destination | None:
        """Where it is when it is not where it was thought to be; `gone` when that node itself has said so."""
        if gone and isinstance(not_at, Route):
            self._routes.forget(label, not_at.node, not_at.epoch)
        found = self._believed(label)
        for pause in _PAUSES:
            if found is not None and not _same(found, not_at):
                return found
            await asyncio.sleep(pause)
            await self._ask(label, region, scan=False)
            found = self._believed(label)
            if gone and isinstance(found, Route) and _same(found, not_at):
                # Who told of it has not heard yet.
                self._routes.forget(label, found.node, found.epoch)
                found = None
            if found is None and not self._routes.is_moving(label):
                break
        return found if found is not None and not _same(found, not_at) else None

    async def close(self) -> None:
        await self._tasks.close()

    def _is_lost(self, found: Destination, last: tuple[str, int] | None) -> bool:
        """Whether it is no newer than what was known, and its node is not heard from: its client is on its way."""
        return isinstance(found, Route) and (found.node, found.epoch) == last and not self._mesh.answers(found.node)

    def _believed(self, label: str) -> Destination | None:
        return self._table.live(label) or self._routes.get(label)

    async def _ask(self, label: str, region: str, *, scan: bool) -> bool:
        """What comes of it is in `routes`; False when nobody was asked. `scan`: the name may be a guess, and counts
        against the rate."""
        asking = self._asking.get(label)
        if asking is None:
            if len(self._asking) >= (_MOST_GUESSES if scan else _MOST) or (scan and not self._rate.take()):
                return False
            asking = self._tasks.spawn(self._ask_everybody(label, region), name="ask for a label")
            self._asking[label] = asking
            asking.add_done_callback(lambda _: self._asking.pop(label, None))
        await asyncio.shield(asking)
        return True

    async def _ask_everybody(self, label: str, region: str) -> None:
        """A registry first; the nodes of the label's region when it has nothing to say that was not known."""
        held, last = self._table.live(label), self._routes.last(label)
        try:
            async with asyncio.timeout(self._time_limit):
                await self._ask_registry(label)
                found = self._believed(label)
                if found is held or (isinstance(found, Route) and (found.node, found.epoch) == last):
                    for node, answer in await self._mesh.ask_region(region, label, None if last is None else last[0]):
                        if answer.HasField("tunnel"):
                            self._routes.learn(answer.tunnel)
                        elif answer.closed_epoch:
                            self._routes.forget(label, node, answer.closed_epoch, closed=True)
        except TimeoutError:
            logger.info("a label was asked for in vain: no answer in time")
        route = self._routes.get(label)
        if route is not None:
            route.asked = True

    async def _ask_registry(self, label: str) -> None:
        answer = await self._resolve(label)
        if answer is not None and answer.tunnel.label == label:
            if answer.HasField("node"):
                self._mesh.learn(answer.node)
            self._routes.learn(answer.tunnel, from_registry=True)
        elif answer is not None and answer.HasField("last"):
            self._routes.learn_last(label, answer.last.node, answer.last.epoch)


def _who_told(found: Destination) -> str:
    if not isinstance(found, Route):
        return "here"
    return _TOLD_BY[found.belief]


def _same(found: Destination, before: object) -> bool:
    if isinstance(found, Route) and isinstance(before, Route):
        return (found.node, found.epoch) == (before.node, before.epoch)
    return found is before
