"""Labels that a registry is asked for: each at once while they are few, many in one call when they come thick.

Here: which labels go together and when. Not here: what becomes of a call (calls.py), who else is asked
(mesh/lookup.py). A call costs both ends a few hundred microseconds, one more label in it a few: a scan of names must
not take that from tunnels in use.
"""

import asyncio
import logging
from functools import partial
from typing import Final

import grpc
from grpc import aio
from portway_proto.v1.mesh_pb2 import ResolveManyRequest, ResolveRequest, ResolveResponse
from portway_runtime.clocks import Monotonic
from portway_runtime.rates import TokenBucket
from portway_runtime.tasks import Tasks

from portway_relay.registry_link.calls import Calls, reason_of

logger = logging.getLogger(__name__)

Answer = ResolveResponse | None

_RESOLVED_WITHIN: Final = 2.0  # visitors wait; the nodes of the label's region can be asked instead
# So many calls at once, and so many a second when labels come faster: 20 ms more for a cold visit in such times.
_BURST: Final = 100
_A_SECOND: Final = 50
_MOST_LABELS: Final = 256  # as mesh.proto says

_Waiting = tuple[str, "asyncio.Future[Answer]"]


class Questions:
    """Who waits for which label, and when the next call may be made."""

    def __init__(self, calls: Calls, tasks: Tasks, clock: Monotonic) -> None:
        self._calls = calls
        self._tasks = tasks
        self._rate = TokenBucket(_A_SECOND, _BURST, clock)
        self._waiting: list[_Waiting] = []

    async def ask(self, label: str) -> Answer:
        """Who holds it, as the registry knows; None when it knows nobody, or cannot be asked."""
        if not self._calls.possible:
            return None
        if not self._waiting and self._rate.take():
            return await self._one(label)
        if not self._waiting:
            self._tasks.spawn(self._ask_together(), name="ask for labels", on_cut=self._let_go)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((label, answer))
        return await answer

    async def _ask_together(self) -> None:
        """Whoever waits, as soon as there may be a call; those that are too many for one in the next."""
        while self._waiting:
            if self._rate.take():
                asked, self._waiting = self._waiting[:_MOST_LABELS], self._waiting[_MOST_LABELS:]
                self._tasks.spawn(self._tell(asked), name="ask for many", on_cut=partial(_give_up, asked))
            else:
                await asyncio.sleep(self._rate.wait)

    def _let_go(self) -> None:
        waiting, self._waiting = self._waiting, []
        _give_up(waiting)

    async def _tell(self, asked: list[_Waiting]) -> None:
        answers = await self._many([label for label, _ in asked])
        for (_, waiting), answer in zip(asked, answers, strict=True):
            if not waiting.done():
                waiting.set_result(answer)

    async def _many(self, labels: list[str]) -> list[Answer]:
        nothing: list[Answer] = [None] * len(labels)
        request = ResolveManyRequest(labels=labels)
        try:
            told = await self._calls.answer(lambda mesh: mesh.ResolveMany(request, timeout=_RESOLVED_WITHIN))
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:  # a registry of the release before
                return list(await asyncio.gather(*map(self._one, labels)))
            _say(error)
            return nothing
        if told is None or len(told.answers) != len(labels):
            return nothing
        return [answer if answer.HasField("tunnel") or answer.HasField("last") else None for answer in told.answers]

    async def _one(self, label: str) -> Answer:
        request = ResolveRequest(label=label)
        try:
            return await self._calls.answer(lambda mesh: mesh.Resolve(request, timeout=_RESOLVED_WITHIN))
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                _say(error)
            return None


def _give_up(asked: list[_Waiting]) -> None:
    """Nobody will answer these."""
    for _, waiting in asked:
        if not waiting.done():
            waiting.set_result(None)


def _say(error: aio.AioRpcError) -> None:
    reason = reason_of(error.code(), error.details() or "")
    logger.warning("a label could not be resolved", extra={"reason": reason})
