"""Labels that a registry is asked for: one call each while they are few, many labels in one call when they are not.

Here: which labels go together, and when. Not here: calls in general (calls.py), other nodes that are asked. A call
costs both ends a few hundred microseconds, one more label in it a few: a scan of names must not take that time from
tunnels in use.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import grpc
from grpc import aio
from portway_proto.v1.mesh_pb2 import ResolveManyRequest, ResolveRequest, ResolveResponse
from portway_runtime.clocks import Monotonic
from portway_runtime.rates import TokenBucket
from portway_runtime.tasks import Tasks

from portway_relay.registry_link.calls import RegistryCalls, reason_of

logger = logging.getLogger(__name__)

Answer = ResolveResponse | None

_RESOLVE_TIME: Final = 2.0  # visitors wait; the nodes of the label's region can be asked instead
# Token bucket of calls: _BURST at once, then _RATE per second. Labels that come faster are gathered, which delays a
# first visit by up to 20 ms.
_BURST: Final = 100
_RATE: Final = 50
_MAX_LABELS: Final = 256  # in one call, as mesh.proto says

_Waiting = tuple[str, "asyncio.Future[Answer]"]


class LabelQuestions:
    """The labels that are waited for, and the calls that ask for them."""

    def __init__(self, calls: RegistryCalls, clock: Monotonic, *, on_failure: Callable[[BaseException], None]) -> None:
        self._calls = calls
        self._tasks = Tasks("label questions", on_failure)
        self._rate = TokenBucket(_RATE, _BURST, clock)
        self._waiting: list[_Waiting] = []

    async def ask(self, label: str, *, current: bool = False) -> Answer:
        """What a registry knows of the label's holder; None when it knows none, or cannot be asked.

        current: what its store has now, of which the registry may be behind. Above the rate it is not asked for that.
        """
        if not self._calls.connected:
            return None
        if current:
            return await self._one(label, current=True) if not self._waiting and self._rate.take() else None
        if not self._waiting and self._rate.take():
            return await self._one(label)
        if not self._waiting:
            self._tasks.spawn(self._ask_together(), name="ask for labels", on_cut=self._give_up_all)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((label, answer))
        return await answer

    async def close(self) -> None:
        """Answer every question with None."""
        await self._tasks.close()

    async def _ask_together(self) -> None:
        """Ask for the labels that wait, as soon as the rate allows a call, until none waits."""
        while self._waiting:
            if self._rate.take():
                asked, self._waiting = self._waiting[:_MAX_LABELS], self._waiting[_MAX_LABELS:]
                self._tasks.spawn(self._ask_for(asked), name="ask for many", on_cut=partial(_give_up, asked))
            else:
                await asyncio.sleep(self._rate.wait)

    def _give_up_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        _give_up(waiting)

    async def _ask_for(self, asked: list[_Waiting]) -> None:
        answers = await self._many([label for label, _ in asked])
        for (_, waiting), answer in zip(asked, answers, strict=True):
            if not waiting.done():
                waiting.set_result(answer)

    async def _many(self, labels: list[str]) -> list[Answer]:
        nothing: list[Answer] = [None] * len(labels)
        request = ResolveManyRequest(labels=labels)
        try:
            response = await self._calls.answer(lambda mesh: mesh.ResolveMany(request, timeout=_RESOLVE_TIME))
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:  # a registry of the release before
                return list(await asyncio.gather(*map(self._one, labels)))
            _log(error)
            return nothing
        if response is None or len(response.answers) != len(labels):
            return nothing
        return [answer if answer.HasField("tunnel") else None for answer in response.answers]

    async def _one(self, label: str, *, current: bool = False) -> Answer:
        request = ResolveRequest(label=label, current=current)
        try:
            return await self._calls.answer(lambda mesh: mesh.Resolve(request, timeout=_RESOLVE_TIME))
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                _log(error)
            return None


def _give_up(asked: list[_Waiting]) -> None:
    """Answer with None."""
    for _, waiting in asked:
        if not waiting.done():
            waiting.set_result(None)


def _log(error: aio.AioRpcError) -> None:
    logger.warning("a label could not be resolved", extra={"reason": reason_of(error)})
