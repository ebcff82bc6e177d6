"""Whether clients can be sent to a node: its advertised address was reached, from another node or from here.

Here: who tries, when again, and what is told. Not here: a try itself (dialling.py; the nodes' own), placement. Other
nodes are asked first, for they are elsewhere, as clients are.
"""

import asyncio
import itertools
import logging
import random
from collections.abc import Iterable, Mapping
from typing import Final

from portway_proto.v1.mesh_pb2 import Probe, Probed, Reachability
from portway_proto.v1.types_pb2 import REACH_FAILED, REACH_REACHED, REACH_TRYING, NodeInfo

from portway_registry.nodes.dialling import DIALLED_WITHIN, Dial
from portway_registry.nodes.session import NodeSession

logger = logging.getLogger(__name__)

# A registration waits so long for the first try, which takes a few milliseconds on one machine and three of the longest
# round trips on Earth when another node is asked. Who is not reached by then is of use to the mesh all the same.
_FIRST_TRY: Final = 2.0
_ASKED: Final = 2  # nodes at once: one may be cut off itself
# A node that is asked has its own time limit, and its answer a way to go.
_ANSWERED_WITHIN: Final = DIALLED_WITHIN + 1.0
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_LONGEST_FAILURE: Final = 300


class Reaching:
    """Tries for the nodes whose sessions are here. Without `dial` nobody tries, and every node counts as reached."""

    def __init__(self, sessions: Mapping[str, NodeSession], dial: Dial | None) -> None:
        self._sessions = sessions
        self._dial = dial
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[str, asyncio.Future[str]]] = {}

    async def first(self, session: NodeSession, known: NodeInfo | None) -> None:
        """Set what is known of the node's reach before it is registered; `known` is its record until now."""
        info = session.info
        info.ClearField("reach")
        info.ClearField("reach_failure")
        if self._dial is None:
            return
        if known is not None and known.reach == REACH_REACHED and _address(known) == _address(info):
            info.reach = REACH_REACHED
            return
        info.reach = REACH_TRYING
        try:
            async with asyncio.timeout(_FIRST_TRY):
                await self._try(session)
        except TimeoutError:
            pass

    async def keep_trying(self, session: NodeSession) -> None:
        """Tell the node what is known, and try until it is reached; its record says so each time that changes."""
        if self._dial is None:
            return
        _tell(session)
        pause = _FIRST_PAUSE
        while session.info.reach in (REACH_TRYING, REACH_FAILED):
            before = session.info.reach, session.info.reach_failure
            await self._try(session)
            if before != (session.info.reach, session.info.reach_failure):
                _tell(session)
                session.publish()
            if session.info.reach == REACH_FAILED:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries only
                pause = min(2 * pause, _LONGEST_PAUSE)

    def answered(self, node: str, probed: Probed) -> None:
        """What a node that was asked has found."""
        asked, answer = self._asked.get(probed.number, ("", None))
        if asked == node and answer is not None and not answer.done():
            answer.set_result(probed.failure)

    async def _try(self, session: NodeSession) -> None:
        """One try by all who may, until one gets there."""
        assert self._dial is not None, "nobody tries"
        info = session.info
        others = [one for one in self._sessions.values() if one is not session and one.serving]
        failures = await self._ask(random.sample(others, min(_ASKED, len(others))), info)
        if failures is not None:
            own = await self._dial(info)
            failures = None if not own else [*failures, f"from the registry: {own}"]
        if failures is None:
            info.reach = REACH_REACHED
            info.ClearField("reach_failure")
            return
        info.reach = REACH_FAILED
        info.reach_failure = "; ".join(failures)[:_LONGEST_FAILURE]

    async def _ask(self, others: Iterable[NodeSession], info: NodeInfo) -> list[str] | None:
        """Why each of them did not get there; None as soon as one did."""
        asked: dict[asyncio.Future[str], str] = {}
        numbers = []
        for other in others:
            number = next(self._numbers)
            answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self._asked[number] = other.info.name, answer
            asked[answer] = other.info.name
            numbers.append(number)
            other.outbox.probe(Probe(number=number, node=info))
        failures = []
        try:
            async with asyncio.timeout(_ANSWERED_WITHIN):
                pending = set(asked)
                while pending:
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    for answer in done:
                        if not answer.result():
                            return None
                        failures.append(f"from node {asked[answer]}: {answer.result()}")
        except TimeoutError:
            failures += [f"node {name} did not answer" for answer, name in asked.items() if not answer.done()]
        finally:
            for number in numbers:
                del self._asked[number]
        return failures


def _address(node: NodeInfo) -> tuple[str, int, str]:
    return node.host, node.port, node.server_name


def _tell(session: NodeSession) -> None:
    info = session.info
    session.outbox.reachability(Reachability(reach=info.reach, failure=info.reach_failure))
    if info.reach == REACH_FAILED:
        logger.warning("node not reached", extra={"node": info.name, "reason": info.reach_failure})
    elif info.reach == REACH_REACHED:
        logger.info("node reached", extra={"node": info.name})
