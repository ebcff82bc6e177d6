"""Where a visitor goes: to a tunnel of this node, by a route in memory, or where a registry or other nodes say.

Here: what is asked, how often and for how long; visitors of the same label share one question. Not here: what is
remembered and believed (routes.py), the checking of signatures (verification.py).
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from portway_carrier.contract import Pool, Visit
from portway_proto.v1.lane_pb2 import Answer
from portway_proto.v1.mesh_pb2 import ResolveResponse
from portway_proto.v1.types_pb2 import NodeInfo, TunnelInfo
from portway_proto.wire.statements import Claim, StatementInvalid, read_presence
from portway_runtime.clocks import Monotonic
from portway_runtime.shares import PrefixShares
from portway_runtime.tasks import Tasks

from portway_relay.routing.first_seconds import FirstSeconds
from portway_relay.routing.routes import Route, Routes
from portway_relay.routing.searches import Searches
from portway_relay.routing.senders import NODE, REGISTRY, TOKEN, Sender
from portway_relay.routing.tunnel import HeldTunnels, Tunnel, claim_of
from portway_relay.routing.verification import Verification

logger = logging.getLogger(__name__)

# Labels that are asked for at the same time. Above it a label is answered as unknown, so guessing names cannot delay
# visitors of tunnels in use.
_MAX_QUESTIONS: Final = 1_024
# The same for labels that may be guesses: those of a quarter of a second at the default rate; a registry on the same
# continent answers ten times as fast. It bounds the memory (40 KB a question) that a slow registry can cost. Visitors'
# prefixes share them, as they share the rate.
_MAX_GUESSES: Final = 128
_ONCE: Final = (0.0,)
_NAMED_BY: Final = {TOKEN: "client", NODE: "node", REGISTRY.kind: "registry"}
# Seconds before each question about a label that is moving. A client binds its tunnels at the next node within a round
# trip or two of leaving, or a second after its node died; the announcement takes milliseconds. A label that its client
# closed is not waited for: it is answered like one that never existed, and as fast.
_PAUSES: Final = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
# Seconds within which every client has noticed that its node is gone, and is at another one.
_NOTICED_WITHIN: Final = 60.0
# Seconds between two looks for an unknown label while the node has just started: the first, and the most.
_FIRST_LOOK: Final = 0.05
_LONGEST_LOOK: Final = 0.4


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


class Closed:
    """What a search finds of a tunnel that nobody has to wait for."""


class DestinationFinder(Protocol):
    """Finds the Destination of a label's visitors. `region` is the one in the name that the visitor asked for."""

    def known(self, label: str) -> Destination | None:
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

    async def find_again(
        self, label: str, region: str, *, not_at: Destination, within: float, or_there: bool
    ) -> Destination | None:
        """Another destination than `not_at`, whose node was not reached, as soon as one is known; None when there is
        none after `within` seconds, or the tunnel was closed.

        or_there: also `not_at` itself, once there are idle lanes to its node.
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

    def down_for(self, node: str) -> float:
        """Seconds since the control lane to this node was up; 0.0 while it is. Infinite for an unknown node."""
        ...

    async def ask_region(self, region: str, label: str, also: str | None) -> list[tuple[str, Answer]]:
        """Ask every node of the region, and the node `also`, for a label: the answers that came, by node."""
        ...


class Resolve(Protocol):
    """Asks a registry for a label; None when it knows no holder, or cannot be asked. `current`: by its store, and not
    from its memory."""

    async def __call__(self, label: str, *, current: bool = False) -> ResolveResponse | None: ...


class Lookup:
    """The DestinationFinder of a node."""

    def __init__(
        self,
        tunnels: HeldTunnels,
        routes: Routes,
        verification: Verification,
        mesh: Mesh,
        resolve: Resolve,
        first_seconds: FirstSeconds,
        *,
        rate: float,
        time_limit: float,
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """
        first_seconds: an unknown label is looked for again until they are over.
        rate: unknown labels that are asked for per second; the prefixes of visitors share them.
        time_limit: seconds for one label.
        """
        self._tunnels = tunnels
        self._routes = routes
        self._verification = verification
        self._mesh = mesh
        self._resolve = resolve
        self._first_seconds = first_seconds
        self._rate = PrefixShares(rate, clock, window=1.0)
        self._guesses = PrefixShares(_MAX_GUESSES, clock)
        self._time_limit = time_limit
        self._tasks = Tasks("lookup", on_failure)
        self._searches = Searches(lambda label, region: self._ask(label, region, None), self._tasks)
        self._asking: dict[str, asyncio.Task[None]] = {}
        self.answers: Counter[tuple[str, str]] = Counter()  # by source of the answer and outcome, for metrics

    def __len__(self) -> int:
        """Labels that are being asked for."""
        return len(self._asking)

    def known(self, label: str) -> Tunnel | Route | None:
        """The destination as far as it is known without asking; None also when the node of a route does not answer."""
        tunnel = self._tunnels.live(label)
        if tunnel is not None:
            self.answers["here", "found"] += 1
            return tunnel
        route = self._routes.usable(label)
        if route is None or not self._mesh.answers(route.node):
            return None
        self.answers["memory", "found"] += 1
        return route

    async def find(self, label: str, region: str, address: str) -> Tunnel | Route | None:
        """The destination, asking if need be; None when no holder is found, or too many labels are being asked for, be
        it in all or by the prefixes of the visitor's address.

        What was heard of the label is checked first. A route whose node does not answer is asked about once, and is
        used as it is when nothing newer is found: whether it leads anywhere only a lane can show, and its visitors wait
        in `find_again`. A node that has just started goes on looking. Cancelled, it leaves a question that others may
        wait for running.
        """
        pause = _FIRST_LOOK
        while (found := await self._find(label, region, address)) is None and not self._first_seconds.over:
            await self._first_seconds.wait(pause)
            pause = min(2 * pause, _LONGEST_LOOK)
        return found

    async def _find(self, label: str, region: str, address: str) -> Tunnel | Route | None:
        found = self.known(label)
        if found is None:
            await self._verification.settle(label)
            found = self.known(label)
        if found is not None:
            return found
        last, moving = self._routes.placed(label), self._routes.is_moving(label)
        if not moving and self._routes.is_unknown(label):
            self.answers["memory", "unknown"] += 1
            return None
        for pause in _PAUSES if moving else _ONCE:
            await asyncio.sleep(pause)
            asked = await self._ask(label, region, None if moving else address)
            found = self._believed(label)
            if found is not None:
                source = "memory" if found is last and self._is_silent(found) else _named_by(found)
                self.answers[source, "found"] += 1
                return found
            moving = self._routes.is_moving(label)
            if not moving:
                break
        self.answers["nobody", "unknown" if asked else "not_asked"] += 1
        return None

    async def find_elsewhere(
        self, label: str, region: str, *, not_at: Destination, denied: bool
    ) -> Tunnel | Route | None:
        """Another destination than `not_at`, which did not take the visitor; None when none is found.

        denied: `not_at` itself has said that it does not hold the label.
        """
        if denied and isinstance(not_at, Route):
            self._forget(not_at)
        await self._verification.settle(label)
        found = self._believed(label)
        for pause in _PAUSES:
            if found is not None and not _same(found, not_at):
                return found
            await asyncio.sleep(pause)
            await self._ask(label, region, None)
            found = self._believed(label)
            if found is None and not self._routes.is_moving(label):
                break
        return found if found is not None and not _same(found, not_at) else None

    async def find_again(
        self, label: str, region: str, *, not_at: Destination, within: float, or_there: bool
    ) -> Tunnel | Route | None:
        """Another destination than `not_at`, whose node was not reached, as soon as one is known; None when there is
        none after `within` seconds, or the tunnel was closed.

        or_there: also `not_at` itself, once there are idle lanes to its node.

        A node that has been away for longer than any client takes to notice is not waited for.
        """
        if isinstance(not_at, Route) and self._mesh.down_for(not_at.node) > _NOTICED_WITHIN:
            within = min(within, sum(_PAUSES))
        await self._verification.settle(label)
        if self._believed(label) is None:
            await self._ask(label, region, None)

        def found() -> Tunnel | Route | Closed | None:
            believed = self._believed(label)
            if believed is None:
                return None if self._routes.is_moving(label) else Closed()
            is_reached = or_there and believed.pool.counts.idle > 0
            return believed if is_reached or not _same(believed, not_at) else None

        answer: Tunnel | Route | Closed | None = await self._searches.wait(label, region, found, within)
        return None if isinstance(answer, Closed) else answer

    async def close(self) -> None:
        """Cancel the questions."""
        await self._tasks.close()

    def _is_silent(self, route: Route) -> bool:
        """Whether its node does not answer: then its client may be on its way elsewhere."""
        return not self._mesh.answers(route.node)

    def _forget(self, route: Route) -> None:
        """Its node has refused a visitor: a registry, or another node, that has not heard of the change yet does not
        lead there again, until the node itself says that it has the tunnel."""
        self._routes.released(Sender(NODE, route.node), route.label, route.epoch, closed=False)

    def _believed(self, label: str) -> Tunnel | Route | None:
        return self._tunnels.live(label) or self._routes.placed(label)

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
        """Ask a registry, then the nodes of the label's region and the last one, unless the registry has confirmed what
        is known or has something newer.

        The registry is asked once more for a label that was bound until a moment ago and leads nowhere: what a replica
        has in memory may be behind its store, and name the home of before.
        """
        try:
            async with asyncio.timeout(self._time_limit):
                if not await self._ask_registry(label):
                    await self._ask_nodes(label, region)
                if self._routes.is_moving(label) and not self._leads_on(label):
                    await self._ask_registry(label, current=True)
        except TimeoutError:
            logger.info("label lookup timed out")
        self._routes.asked(label)
        # Here and not by who waited for it: a visitor that comes before they run would ask again.
        if self._believed(label) is None and not self._routes.is_moving(label):
            self._routes.mark_unknown(label)

    def _leads_on(self, label: str) -> bool:
        """Whether the label leads to a tunnel of this node, or to a node that answers."""
        found = self._believed(label)
        return found is not None and not (isinstance(found, Route) and self._is_silent(found))

    async def _ask_registry(self, label: str, *, current: bool = False) -> bool:
        """Whether the label leads to where a registry says that it is now."""
        answer = await self._resolve(label, current=current)
        if answer is None or answer.tunnel.label != label:
            return False
        if answer.HasField("node"):
            self._mesh.learn(answer.node)
        claim = self._hear(REGISTRY, answer.tunnel, answer.presence)
        await self._verification.settle(label)
        route = self._routes.placed(label)
        return (
            claim is not None
            and route is not None
            and route.claim.encoded == claim.encoded
            and self._routes.is_latest(claim.session_key, answer.presence)
        )

    async def _ask_nodes(self, label: str, region: str) -> None:
        for node, answer in await self._mesh.ask_region(region, label, self._routes.last_node(label)):
            if answer.HasField("tunnel"):
                self._hear(Sender(NODE, node), answer.tunnel, answer.presence)
            elif answer.closed_epoch:
                self._routes.released(Sender(NODE, node), label, answer.closed_epoch, closed=True)
        await self._verification.settle(label)

    def _hear(self, sender: Sender, tunnel: TunnelInfo, presence: bytes) -> Claim | None:
        """The claim of an answer, kept with its presence; None when they do not have their form, or the answer says
        something else than its claim. Nothing else of the answer is used."""
        try:
            claim, present = claim_of(tunnel), read_presence(presence)
        except StatementInvalid as error:
            logger.warning("an answer does not have its form", extra={"sender": sender.name, "reason": str(error)})
            return None
        self._routes.hear_presence(sender, present)
        self._routes.hear_claim(sender, claim)
        return claim


def _named_by(found: Tunnel | Route) -> str:
    return _NAMED_BY[found.word.sender.kind] if isinstance(found, Route) else "here"


def _same(found: Tunnel | Route, before: object) -> bool:
    if isinstance(found, Route) and isinstance(before, Route):
        return found.claim.encoded == before.claim.encoded
    return found is before
