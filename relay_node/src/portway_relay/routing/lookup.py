"""Where a visitor goes: to a tunnel of this node, by a route in memory, or where a registry or other nodes say.

Here: what is asked, how often and for how long; visitors of the same label share one question. Not here: what is
remembered and believed (routes.py).
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

from portway_carrier.contract import Pool, Visit
from portway_proto.v1.lane_pb2 import Answer
from portway_proto.v1.mesh_pb2 import ResolveResponse
from portway_proto.v1.types_pb2 import NodeInfo
from portway_runtime.clocks import Monotonic
from portway_runtime.shares import PrefixShares
from portway_runtime.tasks import Tasks

from portway_relay.routing.routes import Belief, Route, Routes
from portway_relay.routing.tunnel import HeldTunnels, Tunnel

logger = logging.getLogger(__name__)

# Labels that are asked for at the same time. Above it a label is answered as unknown, so guessing names cannot delay
# visitors of tunnels in use.
_MAX_QUESTIONS: Final = 1_024
# The same for labels that may be guesses: those of a quarter of a second at the default rate; a registry on the same
# continent answers ten times as fast. It bounds the memory (40 KB a question) that a slow registry can cost. Visitors'
# prefixes share them, as they share the rate.
_MAX_GUESSES: Final = 128
_ONCE: Final = (0.0,)
_NAMED_BY: Final = {Belief.HINTED: "client", Belief.TOLD: "region", Belief.CONFIRMED: "registry"}
# Seconds before each question about a label that is moving. A client binds its tunnels at the next node within a round
# trip or two of leaving, or a second after its node died; the announcement takes milliseconds. A label that its client
# closed is not waited for: it is answered like one that never existed, and as fast.
_PAUSES: Final = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)


class Destination(Protocol):
    """Where a visitor goes: a Tunnel of this node, or a Route to another node."""

    @property
    def label(self) -> str: ...

    @property
    def pool(self) -> Pool:
        """The lanes that lead there."""
        ...

    @property
    def full(self) -> bool:
        """Whether it may have no further visit now."""
        ...

    @property
    def visits(self) -> set[Visit]: ...

    @property
    def h2_enabled(self) -> bool:
        """Whether visitors may be offered HTTP/2."""
        ...


class DestinationFinder(Protocol):
    """Finds the Destination of a label's visitors. `region` is the one in the name that the visitor asked for."""

    def known(self, label: str, region: str) -> Destination | None:
        """The destination as far as it is known without asking."""
        ...

    async def find(self, label: str, region: str, address: str) -> Destination | None:
        """The destination, asking a registry and other nodes if need be, on behalf of a visitor at `address`; None when
        none is found."""
        ...

    async def find_elsewhere(self, label: str, region: str, *, not_at: Destination, denied: bool) -> Destination | None:
        """Another destination than `not_at`, which did not take the visitor; None when none is found.

        denied: `not_at` itself has said that it does not hold the label.
        """
        ...


class Mesh(Protocol):
    """The other nodes."""

    def learn(self, node: NodeInfo) -> object:
        """Note a node that a registry named."""
        ...

    def answers(self, node: str) -> bool:
        """Whether the control lane to this node is up."""
        ...

    async def ask_region(self, region: str, label: str, also: str | None) -> list[tuple[str, Answer]]:
        """Ask every node of the region, and the node `also`, for a label: the answers that came, by node."""
        ...


Resolve = Callable[[str], Awaitable[ResolveResponse | None]]


class Lookup:
    """The DestinationFinder of a node."""

    def __init__(
        self,
        region: str,
        tunnels: HeldTunnels,
        routes: Routes,
        mesh: Mesh,
        resolve: Resolve,
        *,
        rate: float,
        time_limit: float,
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """
        region: this node's own.
        resolve: asks a registry for a label; None when it knows no holder, or cannot be asked.
        rate: unknown labels that are asked for per second; the prefixes of visitors share them.
        time_limit: seconds for one label.
        """
        self._region = region
        self._tunnels = tunnels
        self._routes = routes
        self._mesh = mesh
        self._resolve = resolve
        self._rate = PrefixShares(rate, clock, window=1.0)
        self._guesses = PrefixShares(_MAX_GUESSES, clock)
        self._time_limit = time_limit
        self._tasks = Tasks("lookup", on_failure)
        self._asking: dict[str, asyncio.Task[None]] = {}
        self.answers: Counter[tuple[str, str]] = Counter()  # by source of the answer and outcome, for metrics

    def __len__(self) -> int:
        """Labels that are being asked for."""
        return len(self._asking)

    def known(self, label: str, region: str) -> Tunnel | Route | None:
        """The destination as far as it is known without asking.

        None also when the node of a route does not answer, and when a sibling claims a name of another region that was
        not asked for: tunnels do move between regions, but the nodes of that region could not contradict a false claim.
        """
        tunnel = self._tunnels.live(label)
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

    async def find(self, label: str, region: str, address: str) -> Tunnel | Route | None:
        """The destination, asking if need be; None when no holder is found, or too many labels are being asked for, be
        it in all or by the prefixes of the visitor's address.

        A route whose node does not answer is asked about, and is used as it is when nothing newer is found. Cancelled,
        it leaves a question that others may wait for running.
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
            asked = await self._ask(label, region, None if moving else address)
            found = self._believed(label)
            if found is not None and not self._is_lost(found, last):
                self.answers[_named_by(found), "found"] += 1
                return found
            moving = self._routes.is_moving(label)
            if found is None and not moving:
                break
        if found is not None:
            self.answers["memory", "found"] += 1
            return found
        self.answers["nobody", "unknown" if asked else "not_asked"] += 1
        if asked and not moving:
            self._routes.mark_unknown(label)
        return None

    async def find_elsewhere(
        self, label: str, region: str, *, not_at: Destination, denied: bool
    ) -> Tunnel | Route | None:
        """Another destination than `not_at`, which did not take the visitor; None when none is found.

        denied: `not_at` itself has said that it does not hold the label.
        """
        if denied and isinstance(not_at, Route):
            self._routes.forget(label, not_at.node, not_at.epoch)
        found = self._believed(label)
        for pause in _PAUSES:
            if found is not None and not _same(found, not_at):
                return found
            await asyncio.sleep(pause)
            await self._ask(label, region, None)
            found = self._believed(label)
            if denied and isinstance(found, Route) and _same(found, not_at):
                # The answer came from a registry or node that has not heard of the change yet.
                self._routes.forget(label, found.node, found.epoch)
                found = None
            if found is None and not self._routes.is_moving(label):
                break
        return found if found is not None and not _same(found, not_at) else None

    async def close(self) -> None:
        """Cancel the questions."""
        await self._tasks.close()

    def _is_lost(self, found: Tunnel | Route, last: tuple[str, int] | None) -> bool:
        """Whether it is the route `last` and its node does not answer: then its client is on its way elsewhere."""
        return isinstance(found, Route) and (found.node, found.epoch) == last and not self._mesh.answers(found.node)

    def _believed(self, label: str) -> Tunnel | Route | None:
        return self._tunnels.live(label) or self._routes.get(label)

    async def _ask(self, label: str, region: str, guesser: str | None) -> bool:
        """Ask for a label, or wait for a question in progress; the answers are in `routes` then.

        False when the limits allowed no question. guesser: the address of a visitor who may have made the label up, so
        that the tighter limits apply.
        """
        asking = self._asking.get(label)
        if asking is None:
            if len(self._asking) >= _MAX_QUESTIONS or (guesser is not None and not self._may_guess(guesser)):
                return False
            asking = self._tasks.spawn(self._ask_everybody(label, region), name="ask for a label")
            self._asking[label] = asking
            asking.add_done_callback(partial(self._asked, label, guesser))
        await asyncio.shield(asking)
        return True

    def _may_guess(self, address: str) -> bool:
        if not self._guesses.take(address):
            return False
        if self._rate.take(address):
            return True
        self._guesses.give_back(address)
        return False

    def _asked(self, label: str, guesser: str | None, _: asyncio.Task[None]) -> None:
        self._asking.pop(label, None)
        if guesser is not None:
            self._guesses.give_back(guesser)
            if self._believed(label) is not None:
                self._rate.give_back(guesser)  # it was no guess

    async def _ask_everybody(self, label: str, region: str) -> None:
        """Ask a registry, then the nodes of the label's region when the registry has nothing new."""
        held, last = self._tunnels.live(label), self._routes.last(label)
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
            logger.info("label lookup timed out")
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


def _named_by(found: Tunnel | Route) -> str:
    return _NAMED_BY[found.belief] if isinstance(found, Route) else "here"


def _same(found: Tunnel | Route, before: object) -> bool:
    if isinstance(found, Route) and isinstance(before, Route):
        return (found.node, found.epoch) == (before.node, before.epoch)
    return found is before
