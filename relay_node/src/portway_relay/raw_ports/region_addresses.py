"""What a raw tunnel's BIND waits for: that its port is known to be its own, a free port, listening siblings.

Here: the order of these, each with a time limit; nothing is waited for where this node knows enough. Not here: the
account (account.py), the calls to a registry and to siblings.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

from portway_proto.v1.mesh_pb2 import ResolveResponse
from portway_runtime.tasks import Tasks

from portway_relay.raw_ports.account import PortAccount
from portway_relay.raw_ports.sibling_ports import SiblingClaims

# Seconds that `forward()` waits for the nodes of the region to listen on the new port: it has to be quick.
SIBLINGS_LISTEN_TIME: Final = 0.02
# Seconds for a registry's answer; a client that comes back waits, and another port is better than no answer.
_VOUCHED_TIME: Final = 1.0


class Siblings(Protocol):
    """The other nodes of the region."""

    def unacknowledged(self) -> list[asyncio.Future[None]]:
        """For each sibling with unconfirmed announcements of raw ports: a future, done when it listens on them."""
        ...


class Reservation(Protocol):
    """Gets more ports from a registry."""

    async def room(self) -> bool:
        """Ask for more. Whether there may be a free port now."""
        ...

    def taken(self) -> None:
        """A port was given to a tunnel."""
        ...


class RegionAddresses:
    """Raw addresses of the region, as this node gives them to tunnels."""

    def __init__(
        self,
        region: str,
        account: PortAccount,
        reservation: Reservation,
        siblings: Siblings,
        claims: SiblingClaims,
        resolve: Callable[[str], Awaitable[ResolveResponse | None]],
        *,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """resolve: asks a registry for a label; None when it knows no holder, or cannot be asked."""
        self._region = region
        self._account = account
        self._reservation = reservation
        self._siblings = siblings
        self._claims = claims
        self._resolve = resolve
        self._tasks = Tasks("raw addresses", on_failure)

    def spawn(self, waiting: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run the rest of a BIND in the background; `close` cancels it."""
        return self._tasks.spawn(waiting, name="give a raw address")

    async def close(self) -> None:
        """Cancel the BINDs that wait."""
        await self._tasks.close()

    def at_once(self, label: str, wanted: int | None) -> bool:
        """Whether the label's port can be decided without asking a registry."""
        if self._has(label, wanted):
            return True
        if wanted is not None and not self._known(label, wanted):
            return False
        return next(self._account.candidates(label, wanted), None) is not None

    async def prepare(self, label: str, wanted: int | None) -> int | None:
        """Ask a registry for what is not known. Returns `wanted`; None when it is another label's. May be cancelled."""
        if wanted is not None and not self._known(label, wanted) and not await self._vouched(label, wanted):
            wanted = None
        while not self._has(label, wanted) and next(self._account.candidates(label, wanted), None) is None:
            # Other BINDs that wait may take what was reserved first.
            if not await self._reservation.room():
                break
        return wanted

    def taken(self) -> list[asyncio.Future[None]]:
        """Note that a port was given and announced; the futures of siblings that do not listen on it yet."""
        self._reservation.taken()
        return self._siblings.unacknowledged()

    async def listening(self, unacknowledged: list[asyncio.Future[None]]) -> None:
        """Wait for those siblings, for at most 20 ms. May be cancelled."""
        await asyncio.wait(unacknowledged, timeout=SIBLINGS_LISTEN_TIME)

    def _has(self, label: str, port: int | None) -> bool:
        return port is not None and self._account.holder(port) == label

    def _known(self, label: str, port: int) -> bool:
        return self._account.knows(port, label, believed=self._claims.believed(port))

    async def _vouched(self, label: str, port: int) -> bool:
        """Whether a registry has the port as the label's."""
        try:
            async with asyncio.timeout(_VOUCHED_TIME):
                answer = await self._resolve(label)
        except TimeoutError:
            return False
        if answer is None or answer.tunnel.label != label:
            return False
        if (answer.tunnel.region, answer.tunnel.unencrypted_port) != (self._region, port):
            return False
        self._account.vouched(port, label)
        return True
