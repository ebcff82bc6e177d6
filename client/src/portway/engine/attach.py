"""Attaching: find a node that takes the session, and keep why each of the others did not.

Nodes are dialled one after the other, in the registry's order. Racing them changes `dial` alone: it yields
connections in the order they are ready, and HELLO goes to them in that order. Not here: when to attach, and how
often to try (reconnect.py).
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from portway_proto.carry.contract import Carrier, ClientTls, Stream
from portway_proto.carry.errors import CarrierError
from portway_proto.wire.limits import LINK_ALPN

from portway.engine.dialogue import SessionKey, Welcomed
from portway.engine.discovery import Directory, Located, Node
from portway.engine.failures import Failure
from portway.engine.session import Session, SessionEvents, SessionOver
from portway.errors import Attempt, UnreachableError
from portway.forks import unforked

# A SYN lost once is repeated after 1 s; a node that needs longer than this to connect is no good one.
DIAL_TIMEOUT: Final = 3.0

_NO_ANSWER_YET: Final = "no answer yet"


class Refused(Exception):
    """A node refused the session for a reason that every node would give."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Resumption:
    """A session to go on with, at its node alone."""

    node: str
    key: SessionKey


@dataclass(frozen=True, slots=True)
class Attached:
    """A session that is up."""

    node: Node
    session: Session
    welcomed: Welcomed


class Search:
    """Looks for a node, round after round. `attempts` is what the last round, which may be going on, came to."""

    def __init__(self, carrier: Carrier, directory: Directory, events: SessionEvents) -> None:
        self.attempts: list[Attempt] = []
        self._carrier = carrier
        self._directory = directory
        self._events = events

    async def attach(
        self, resume: Resumption | None = None, avoided: Node | None = None, home: Node | None = None
    ) -> Attached:
        """A session with the first node that takes one: of those that are known, then of those a registry names now.

        With `home`, the node that open tunnels were at, of its region alone: no other serves their names.

        Raises UnreachableError with each one's reason, Refused, and what Directory.locate raises. Cancelled, it
        leaves no connection behind.
        """
        self.attempts = []
        tried: tuple[Node, ...] = ()
        located = self._directory.located
        if located is not None:
            tried = _in_order(located.nodes, resume, avoided, home)
            try:
                if attached := await self._first_that_takes(tried, located, resume):
                    return attached
            except Refused as refused:
                if not refused.failure.stale_grant:
                    raise
                tried = ()  # a fresh grant may do
        located = await self._locate("" if home is None else home.region)
        fresh = [node for node in _in_order(located.nodes, resume, avoided, home) if node not in tried]
        if attached := await self._first_that_takes(fresh, located, resume):
            return attached
        raise UnreachableError("no relay node could be reached", tuple(self.attempts))

    async def _locate(self, region: str) -> Located:
        self.attempts.append(Attempt("", "the registry", _NO_ANSWER_YET))
        try:
            located = await self._directory.locate(region)
        except UnreachableError as error:
            self.attempts.pop()
            if not self.attempts:
                raise
            self.attempts += error.attempts or [Attempt("", "the registry", str(error))]
            raise UnreachableError("no relay node could be reached, and no registry", tuple(self.attempts)) from None
        self.attempts.pop()
        return located

    async def _first_that_takes(
        self, nodes: Sequence[Node], located: Located, resume: Resumption | None
    ) -> Attached | None:
        async with aclosing(dial(self._carrier, nodes, located.cluster_ca, self.attempts)) as dialled:
            async for node, stream in dialled:
                try:
                    session = Session(self._carrier, stream, self._events)
                except CarrierError as error:
                    self.attempts[-1] = _attempt(node, str(error))
                    continue
                key = resume.key if resume is not None and resume.node == node.name else None
                try:
                    return Attached(node, session, await session.hello(located.grant.token, key))
                except SessionOver as over:
                    self.attempts[-1] = _attempt(node, str(over))
                    if over.failure is not None and over.failure.for_good:
                        raise Refused(over.failure) from None
                except BaseException:
                    session.drop()
                    raise
        return None


async def dial(
    carrier: Carrier, nodes: Sequence[Node], cluster_ca: bytes, attempts: list[Attempt]
) -> AsyncGenerator[tuple[Node, Stream], None]:
    """Connections that are ready for HELLO, each with its node; each node is added to `attempts`, with why not."""
    for node in nodes:
        attempts.append(_attempt(node, _NO_ANSWER_YET))
        try:
            with unforked:  # the first one sets the TLS library up
                stream = carrier.connect(node.address, ClientTls(cluster_ca, node.server_name, LINK_ALPN))
        except CarrierError as error:
            attempts[-1] = _attempt(node, str(error))
            continue
        try:
            async with asyncio.timeout(DIAL_TIMEOUT):
                handshake = await stream.ready()
        except CarrierError as error:
            attempts[-1] = _attempt(node, str(error))
        except TimeoutError:
            stream.abort()
            attempts[-1] = _attempt(node, f"no connection within {DIAL_TIMEOUT:g} s")
        except BaseException:
            stream.abort()
            raise
        else:
            if handshake.alpn == LINK_ALPN:
                yield node, stream
            else:
                stream.abort()
                attempts[-1] = _attempt(node, "it is no relay node, or not of this protocol version")


def _in_order(
    nodes: Sequence[Node], resume: Resumption | None, avoided: Node | None, home: Node | None
) -> tuple[Node, ...]:
    """The registry's order, but first the node where the session can be resumed, and never the one to avoid.

    With `home`, those of its region, itself included: a registry names no node that is just starting again.
    """
    if home is not None:
        nodes = [node for node in nodes if node.region == home.region]
        if home.name not in {node.name for node in nodes}:
            nodes.append(home)
    wanted = [node for node in nodes if avoided is None or node.name != avoided.name]
    if resume is not None:
        wanted.sort(key=lambda node: node.name != resume.node)
    return tuple(wanted)


def _attempt(node: Node, reason: str) -> Attempt:
    return Attempt(node.name, str(node.address), reason)
