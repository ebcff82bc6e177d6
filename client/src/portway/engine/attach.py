"""Attaching: find a node that takes the session, and keep why each of the others did not.

Nodes are dialled one after the other, in the registry's order. Racing them changes `dial` alone: it yields
connections in the order they are ready, and HELLO goes to them in that order.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from portway_proto.carry.contract import Carrier, ClientTls, Handshake, Stream
from portway_proto.carry.errors import CarrierError
from portway_proto.wire.limits import LINK_ALPN

from portway.engine.dialogue import SessionKey, Welcomed
from portway.engine.discovery import Located, Node
from portway.engine.failures import Failure
from portway.engine.session import Session, SessionEvents, SessionOver
from portway.errors import Attempt, UnreachableError

# A SYN lost once is repeated after 1 s; a node that needs longer than this to connect is no good one.
DIAL_TIMEOUT: Final = 3.0


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


async def attach(
    carrier: Carrier, located: Located, nodes: Sequence[Node], resume: Resumption | None, events: SessionEvents
) -> Attached:
    """A session with the first of `nodes` that takes one. Raises UnreachableError with each one's reason, Refused.

    Cancelled, it leaves no connection behind.
    """
    attempts: list[Attempt] = []
    async with aclosing(dial(carrier, nodes, located.cluster_ca, attempts)) as dialled:
        async for node, stream in dialled:
            try:
                session = Session(carrier, stream, events)
            except CarrierError as error:
                attempts.append(_attempt(node, str(error)))
                continue
            key = resume.key if resume is not None and resume.node == node.name else None
            try:
                return Attached(node, session, await session.hello(located.grant.token, key))
            except SessionOver as over:
                if over.failure is not None and over.failure.for_good:
                    raise Refused(over.failure) from None
                attempts.append(_attempt(node, str(over)))
            except BaseException:
                session.drop()
                raise
    raise UnreachableError("no relay node could be reached", tuple(attempts))


async def dial(
    carrier: Carrier, nodes: Sequence[Node], cluster_ca: bytes, attempts: list[Attempt]
) -> AsyncGenerator[tuple[Node, Stream], None]:
    """Connections that are ready for HELLO, each with its node; why others are not is added to `attempts`."""
    for node in nodes:
        try:
            stream = carrier.connect(node.address, ClientTls(cluster_ca, node.server_name, LINK_ALPN))
        except CarrierError as error:
            attempts.append(_attempt(node, str(error)))
            continue
        try:
            async with asyncio.timeout(DIAL_TIMEOUT):
                handshake = await stream.ready()
        except CarrierError as error:
            attempts.append(_attempt(node, str(error)))
        except TimeoutError:
            stream.abort()
            attempts.append(_attempt(node, f"no connection within {DIAL_TIMEOUT:g} s"))
        except BaseException:
            stream.abort()
            raise
        else:
            if _speaks_lanes(handshake):
                yield node, stream
            else:
                stream.abort()
                attempts.append(_attempt(node, "it is no relay node, or not of this protocol version"))


def _speaks_lanes(handshake: Handshake) -> bool:
    return handshake.alpn == LINK_ALPN


def _attempt(node: Node, reason: str) -> Attempt:
    return Attempt(node.name, str(node.address), reason)
