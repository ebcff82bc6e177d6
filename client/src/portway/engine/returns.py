"""Returns: looks for a node that is clearly nearer than the session's, and attaches to it before that one is left.

A registry says which nodes take clients; how far away they are this client measures itself. No node is asked, so none
can attract clients but by being near. A look is a Locate, whose grant makes the next Renew unnecessary, and mostly
nothing else. Here: asking, dialling, HELLO. Not here: when and where to (return_rule.py), moving the tunnels (link.py).
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Final, NoReturn, Protocol

from portway_carrier.contract import Carrier
from portway_carrier.errors import CarrierError
from portway_runtime.clocks import Monotonic, counting_sleep

from portway.engine.dialling import DialFailed, Dialled, dial
from portway.engine.directory import Directory, Located, Node
from portway.engine.reporter import Reporter
from portway.engine.return_rule import Measured, NamedNode, ReturnRule
from portway.engine.search import Attachment, Search
from portway.engine.session import Session, SessionEvents, SessionOver
from portway.errors import Error

logger = logging.getLogger(__name__)

# What a registry gives at most. It names the nodes that it expects to be near: wrong ones to a client that GeoIP has
# elsewhere, and others each time to one that it cannot locate.
MANY_CANDIDATES: Final = 32
# Seconds. The loop's timers do not count time asleep: this often the clock that does is read.
READ_CLOCK_EVERY: Final = 5.0


class ReturnOwner(SessionEvents, Protocol):
    """Whose session it is."""

    def may_go_to(self, node: Node) -> bool:
        """Whether there are tunnels, and none of them would lose its raw port at that node."""


class Returns:
    """Made and used on the engine's loop, by one link."""

    def __init__(
        self,
        carrier: Carrier,
        directory: Directory,
        search: Search,
        reporter: Reporter,
        owner: ReturnOwner,
        rule: ReturnRule | None,
        clock: Monotonic = counting_sleep,
    ) -> None:
        """Without a `rule` it never looks. `clock` counts time asleep."""
        self._carrier = carrier
        self._directory = directory
        self._search = search
        self._reporter = reporter
        self._owner = owner
        self._rule = rule
        self._clock = clock
        self._next: Attachment | None = None
        self._current: Attachment | None = None

    def take(self) -> Attachment | None:
        """The session with a nearer node that the one before was ended for. It is up and holds nothing yet."""
        attachment, self._next = self._next, None
        return attachment if attachment is not None and attachment.session.up else None

    def drop(self) -> None:
        """No session is needed any more."""
        if (attachment := self.take()) is not None:
            attachment.session.leave()

    async def keep_looking(self, attachment: Attachment) -> NoReturn:
        """Look for a nearer node than that of this session, which is up, and end it as a node's GOAWAY does when there
        is one. Cancelled, it leaves no connection behind."""
        if (rule := self._rule) is None:
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")
        self._current = attachment
        now, home, located = self._clock(), attachment.session.node, self._directory.located
        regions = {node.name: node.region for node in (home, *(() if located is None else located.nodes))}
        for one in attachment.round_trips:
            if not one.at_least and one.node in regions:
                rule.measured(now, regions[one.node], one.ms)
        expected = None if located is None else located.expected.get(home.name)
        rule.attached(now, home.name, home.region, 0.0 if expected is None else expected.ms)
        try:
            while True:
                wait = rule.look_at - self._clock()
                if wait > 0:
                    await asyncio.sleep(min(wait, READ_CLOCK_EVERY))
                else:
                    await self._look(rule, attachment.session)
        finally:
            if self._current is attachment:  # what was cancelled may end after the next session has begun
                rule.detached()

    async def _look(self, rule: ReturnRule, session: Session) -> None:
        try:
            located = await self._directory.locate()
            if rule.misses(self._clock(), {node.region for node in located.nodes}):
                located = await self._directory.locate(limit=MANY_CANDIDATES)
        except Error as error:
            logger.debug("no registry says which nodes are ready: %s", error)
            rule.looked(self._clock())
            return
        nodes = {
            node.name: node
            for node in self._search.may_be_dialled(located.nodes)
            if node.name != session.node.name and self._owner.may_go_to(node)
        }
        named = [_named(node, located) for node in (session.node, *nodes.values()) if node.name in located.expected]
        rivals = rule.to_dial(self._clock(), named)
        if not rivals:
            return
        dialled = await self._dial((session.node, *(nodes[name] for name in rivals)), located)
        try:
            self._reporter.tell([one.round_trip for one in dialled.values()], located)
            measured = {name: _measured(one) for name, one in dialled.items()}
            home = measured.pop(session.node.name, None)
            name = rule.dialled(self._clock(), home, measured)
            if name is not None:
                rule.returning(self._clock())
                await self._go(session, home, nodes[name], dialled.pop(name), located)
        finally:
            for one in dialled.values():
                one.stream.abort()

    async def _go(
        self, session: Session, home: Measured | None, node: Node, dialled: Dialled, located: Located
    ) -> None:
        """Attach to a node on a connection that it has just been dialled with, and hand the session over."""
        try:
            attachment = await self._search.greet(self._owner, node, dialled, located)
        except (CarrierError, SessionOver) as error:
            logger.info("node %s is nearer, and did not take this client: %s", node.name, error)
            return
        if not (session.up and self._owner.may_go_to(node)):
            attachment.session.leave()
            return
        logger.info(
            "node %s (%s ms away) is left for node %s (%.0f ms), which is nearer",
            session.node.name,
            "unknown" if home is None else f"{home.ms:.0f}",
            node.name,
            dialled.round_trip.ms,
        )
        self._next = attachment
        session.leave_for_another("a nearer node is ready")

    async def _dial(self, nodes: Iterable[Node], located: Located) -> dict[str, Dialled]:
        """Dial them all at once; without those that were not reached. Cancelled, it leaves no connection behind."""
        reached: dict[str, Dialled] = {}

        async def dial_one(node: Node) -> None:
            try:
                reached[node.name] = await dial(self._carrier, node, located.cluster_ca)
            except DialFailed as failed:
                logger.debug("node %s was not reached: %s", node.name, failed)

        try:
            async with asyncio.TaskGroup() as dials:
                for node in nodes:
                    dials.create_task(dial_one(node))
        except BaseException:
            for one in reached.values():
                one.stream.abort()
            raise
        return reached


def _named(node: Node, located: Located) -> NamedNode:
    expected = located.expected[node.name]
    return NamedNode(node.name, node.region, expected.ms, expected.load_ms)


def _measured(one: Dialled) -> Measured:
    return Measured(one.round_trip.ms, one.took * 1000)
