"""What a raw tunnel waits for: that its port is known to be its own, that there is a free one, that siblings listen.

Here: the order of these, each with a time limit, nothing waited for where memory is enough. Not here: the account
(ports.py), who is asked (registry_link/, mesh/).
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

from portway_proto.v1.mesh_pb2 import ResolveResponse
from portway_runtime.tasks import Tasks

from portway_relay.raw_ports.account import PortAccount

# `forward()` returns when the nodes of the region listen, or after so many seconds: it is to be quick.
SIBLINGS_LISTEN_WITHIN: Final = 0.02
# A client that comes back waits; another port is better than none.
_VOUCHED_WITHIN: Final = 1.0


class Siblings(Protocol):
    """The other nodes of the region."""

    def unacknowledged(self) -> list[asyncio.Future[None]]:
        """For each that can be reached and has not said yet that it listens on all it was told: done when it has."""
        ...


class Reservation(Protocol):
    """Who gets more ports."""

    async def room(self) -> bool:
        """Whether there may be a free port by now."""
        ...

    def taken(self) -> None: ...


class RegionAddresses:
    """Raw addresses of the region, as this node gives them."""

    def __init__(
        self,
        region: str,
        account: PortAccount,
        reservation: Reservation,
        siblings: Siblings,
        believed: Callable[[int], bool],
        resolve: Callable[[str], Awaitable[ResolveResponse | None]],
        *,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`believed`: whether the sibling with a port was just heard from; `resolve` asks a registry for a label."""
        self._region = region
        self._account = account
        self._reservation = reservation
        self._siblings = siblings
        self._believed = believed
        self._resolve = resolve
        self._tasks = Tasks("raw addresses", on_failure)

    def spawn(self, waiting: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Who waits."""
        return self._tasks.spawn(waiting, name="give a raw address")

    async def close(self) -> None:
        """Nobody waits any longer."""
        await self._tasks.close()

    def at_once(self, label: str, wanted: int | None) -> bool:
        """Whether it can be decided without asking anybody which port the label gets."""
        if self._has(label, wanted):
            return True
        if wanted is not None and not self._known(label, wanted):
            return False
        return next(self._account.candidates(label, wanted), None) is not None

    async def prepare(self, label: str, wanted: int | None) -> int | None:
        """Ask who must be asked; the port that the label may wish for. May be cancelled."""
        if wanted is not None and not self._known(label, wanted) and not await self._vouched(label, wanted):
            wanted = None
        while not self._has(label, wanted) and next(self._account.candidates(label, wanted), None) is None:
            # Of what is reserved others who wait may be quicker to take the last.
            if not await self._reservation.room():
                break
        return wanted

    def taken(self) -> list[asyncio.Future[None]]:
        """A port was given, and siblings were told. Which of them do not listen yet."""
        self._reservation.taken()
        return self._siblings.unacknowledged()

    async def listening(self, unacknowledged: list[asyncio.Future[None]]) -> None:
        """Until they do, or it takes too long. May be cancelled."""
        await asyncio.wait(unacknowledged, timeout=SIBLINGS_LISTEN_WITHIN)

    def _has(self, label: str, port: int | None) -> bool:
        return port is not None and self._account.holder(port) == label

    def _known(self, label: str, port: int) -> bool:
        return self._account.knows(port, label, believed=self._believed(port))

    async def _vouched(self, label: str, port: int) -> bool:
        """Whether a registry has the port as the label's."""
        try:
            async with asyncio.timeout(_VOUCHED_WITHIN):
                answer = await self._resolve(label)
        except TimeoutError:
            return False
        if answer is None or answer.tunnel.label != label:
            return False
        if (answer.tunnel.region, answer.tunnel.unencrypted_port) != (self._region, port):
            return False
        self._account.vouched(port, label)
        return True
