"""The reservation of raw ports at a registry: blocks before they are needed, rested ports before they are given.

Here: when a registry is asked, and what its answer means to the account (account.py). Not here: the call itself.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from portway_proto.v1.mesh_pb2 import ReservePortsRequest, ReservePortsResponse
from portway_runtime.clocks import Monotonic
from portway_runtime.tasks import Tasks

from portway_relay.config import PortRange
from portway_relay.raw_ports.account import Block, PortAccount

logger = logging.getLogger(__name__)

Ask = Callable[[ReservePortsRequest], Awaitable[ReservePortsResponse | None]]

# With fewer free ports the next block is asked for: a program that opens ten raw tunnels does not wait.
_FEW_FREE: Final = 16
# Ports in a registry's block; where blocks are smaller, a second question brings the rest.
_BLOCK_SIZE: Final = 64
# Seconds between two questions, at least.
_SHORTEST_PAUSE: Final = 0.25
# And at most: a registry notes each hour which nodes are there, and takes the blocks of those that are not.
_LONGEST_PAUSE: Final = 900.0
# Share of the resting time that a rested port waits before it is asked about, so that one question serves many.
_GATHERING_SHARE: Final = 0.125
_PAUSE_AFTER_FAILURE: Final = 1.0
# A client waits for its tunnel meanwhile.
_ROOM_TIME: Final = 2.0


class PortReservation:
    """Keeps free ports in the account while a registry can be reached."""

    def __init__(
        self,
        account: PortAccount,
        ask: Ask,
        *,
        rest: float,
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """
        ask: sends the request to a registry; None when none can be reached.
        rest: seconds that a released port rests.
        """
        self._account = account
        self._ask = ask
        self._rest = rest
        self._gathering = max(_SHORTEST_PAUSE, rest * _GATHERING_SHARE)
        self._clock = clock
        self._tasks = Tasks("port reservation", on_failure)
        self._wake = asyncio.Event()
        self._asked = 0  # questions
        self._waiting: dict[asyncio.Future[None], int] = {}  # callers of `room`, by the question that answers them
        self._used_up = False
        account.registry_away = True

    def start(self) -> None:
        """Begin to keep ports ready."""
        self._tasks.spawn(self._keep(), name="keep ports")

    async def close(self) -> None:
        """Stop asking."""
        await self._tasks.close()

    def registry_away(self, away: bool) -> None:
        """A registry can be reached, or no longer; called at each change."""
        self._account.registry_away = away
        if not away:
            self._wake.set()

    def use_known(self, blocks: Iterable[PortRange]) -> None:
        """Blocks that this node had before its start, until a registry says which it has. Which of their ports are in
        use nobody says: they go to labels with tickets for them."""
        self._account.reserved([Block(ports, fresh=False) for ports in blocks], {})

    def taken(self) -> None:
        """A port was given to a tunnel."""
        if self._account.free < _FEW_FREE and not self._used_up:
            self._wake.set()

    async def room(self) -> bool:
        """Ask for more ports, and wait for the answer for up to 2 s. Whether there may be a free one now."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # The answer to a question in progress may name what was free before this call.
        self._waiting[answer] = self._asked + 1
        self._wake.set()
        try:
            async with asyncio.timeout(_ROOM_TIME):
                await answer
        except TimeoutError:
            return False
        else:
            return self._account.free > 0 or not self._used_up
        finally:
            del self._waiting[answer]

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            answered = self._account.registry_away or await self._ask_once()
            # A burst of callers is served by one question.
            await asyncio.sleep(_SHORTEST_PAUSE if self._used_up else 0)
            try:
                async with asyncio.timeout(self._pause() if answered else _PAUSE_AFTER_FAILURE):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _ask_once(self) -> bool:
        """Whether there was an answer."""
        account = self._account
        asked_at = self._clock()
        self._asked += 1
        # Only what is needed now: the other nodes of the region need ports too. Rested ports count, because most are
        # free with this answer; otherwise a node would take one more block each time it is started.
        few = account.free + account.rested < _FEW_FREE
        more = 1 + len(self._waiting) // _BLOCK_SIZE if few or self._waiting else 0
        request = ReservePortsRequest(first=account.range.first, last=account.range.last, blocks=account.blocks + more)
        answer = await self._ask(request)
        if answer is None:
            return False
        blocks = [Block(PortRange(block.first, block.last), block.fresh) for block in answer.blocks]
        held = {one.port: one.label for one in answer.held}
        account.reserved(blocks, held)
        account.confirmed(asked_at, held)
        self._used_up = len(blocks) < request.blocks
        if not more and account.free < _FEW_FREE:
            self._wake.set()  # tunnels have the ports that had rested
        if self._used_up and not account.free:
            logger.warning("the region's raw ports are used up: enlarge --raw-ports", extra={"blocks": len(blocks)})
        for waiting, question in self._waiting.items():
            if not waiting.done() and (question <= self._asked or account.free):
                waiting.set_result(None)
        return True

    def _pause(self) -> float:
        """Seconds until the next question unless a port is taken meanwhile; a held port may be released at once."""
        rested = self._account.next_rested
        if rested is None:
            return min(_LONGEST_PAUSE, self._rest + self._gathering) if self._account.held else _LONGEST_PAUSE
        return min(_LONGEST_PAUSE, max(self._gathering, rested - self._clock()))
