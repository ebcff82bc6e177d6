"""Blocks of raw ports for this node, asked for before they are needed; rested ports asked about before they are given.

Here: when a registry is asked, and what its answer means to the account. Not here: the account (tunnels/ports.py), the
call (link.py).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from portway_proto.v1.mesh_pb2 import ReservePortsRequest, ReservePortsResponse
from portway_runtime.clocks import Monotonic
from portway_runtime.tasks import Tasks

from portway_relay.config import PortRange
from portway_relay.raw_ports.account import Block, PortAccount

logger = logging.getLogger(__name__)

Ask = Callable[[ReservePortsRequest], Awaitable[ReservePortsResponse | None]]

# With so few left the next block is asked for: a program that opens ten raw tunnels does not wait.
_FEW: Final = 16
# What a registry makes a block of; where it is less, a second question brings the rest.
_BLOCK: Final = 64
# Whatever happens, a registry is asked no more often than this, in seconds.
_SHORTEST_PAUSE: Final = 0.25
# And no less often: it writes down each hour that the node is there, and takes nobody's blocks who is.
_LONGEST_PAUSE: Final = 900.0
# Of the rest of a port: so late it may be asked about, so that many are asked about at once.
_GATHERED: Final = 0.125
_AFTER_FAILURE: Final = 1.0
# A client waits for its tunnel meanwhile.
_ROOM_WITHIN: Final = 2.0


class PortReservation:
    """Keeps ports ready in the account, while a registry can be reached."""

    def __init__(
        self,
        account: PortAccount,
        ask: Ask,
        *,
        rest: float,
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`ask` gives None when no registry can be asked."""
        self._account = account
        self._ask = ask
        self._rest = rest
        self._gathered = max(_SHORTEST_PAUSE, rest * _GATHERED)
        self._clock = clock
        self._tasks = Tasks("port reservation", on_failure)
        self._wake = asyncio.Event()
        self._asked = 0
        self._waiting: dict[asyncio.Future[None], int] = {}  # for the answer to which question
        self._used_up = False
        account.registry_away = True

    def start(self) -> None:
        self._tasks.spawn(self._keep(), name="keep ports")

    async def close(self) -> None:
        await self._tasks.close()

    def registry_away(self, away: bool) -> None:
        """Whether one can be asked; told at each change."""
        self._account.registry_away = away
        if not away:
            self._wake.set()

    def taken(self) -> None:
        """A port was given."""
        if self._account.free < _FEW and not self._used_up:
            self._wake.set()

    async def room(self) -> bool:
        """Ask for more; whether there is some. Waits for a registry's answer, but not for long."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # One that is asked already may be answered with what was free before.
        self._waiting[answer] = self._asked + 1
        self._wake.set()
        try:
            async with asyncio.timeout(_ROOM_WITHIN):
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
            # What is asked for in a burst is asked for once.
            await asyncio.sleep(_SHORTEST_PAUSE if self._used_up else 0)
            try:
                async with asyncio.timeout(self._pause() if answered else _AFTER_FAILURE):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _ask_once(self) -> bool:
        """Whether there was an answer."""
        account = self._account
        asked_at = self._clock()
        self._asked += 1
        # No more than is needed now: the other nodes of the region have needs of their own. Most of what has rested is
        # free with this answer; were it not counted, a node would take one more block each time that it is started.
        few = account.free + account.rested < _FEW
        more = 1 + len(self._waiting) // _BLOCK if few or self._waiting else 0
        request = ReservePortsRequest(first=account.range.first, last=account.range.last, blocks=account.blocks + more)
        answer = await self._ask(request)
        if answer is None:
            return False
        blocks = [Block(PortRange(block.first, block.last), block.fresh) for block in answer.blocks]
        held = {one.port: one.label for one in answer.held}
        account.reserved(blocks, held)
        account.confirmed(asked_at, held)
        self._used_up = len(blocks) < request.blocks
        if not more and account.free < _FEW:
            self._wake.set()  # tunnels have what had rested
        if self._used_up and not account.free:
            logger.warning("the region's raw ports are used up: enlarge --raw-ports", extra={"blocks": len(blocks)})
        for waiting, question in self._waiting.items():
            if not waiting.done() and (question <= self._asked or account.free):
                waiting.set_result(None)
        return True

    def _pause(self) -> float:
        """How long nothing needs to be asked, unless a port is taken meanwhile: one that is held may be let go at
        once."""
        rested = self._account.next_rested
        if rested is None:
            return min(_LONGEST_PAUSE, self._rest + self._gathered) if self._account.held else _LONGEST_PAUSE
        return min(_LONGEST_PAUSE, max(self._gathered, rested - self._clock()))
