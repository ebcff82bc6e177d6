"""Whether a replica of the registry answers this node itself: asked when a connection that was passed on to it got no
answer.

That alone says nothing of other connections: the replica refuses a caller with as many as its address may have, lets
one wait behind its own, and closes what is no TLS of its kind. What one caller does must not take a replica from the
others. Here: asking, and what follows. Not here: connections that are passed on (passages.py), how far a replica is
(measuring.py).
"""

import asyncio
from collections.abc import Callable
from typing import Final

from portway_carrier.contract import Carrier
from portway_carrier.errors import CarrierError, HandshakeFailed
from portway_carrier.values import ClientTls
from portway_runtime.clocks import Monotonic
from portway_runtime.tasks import Tasks

from portway_relay.passages.fronts import Front, Fronts

# Seconds for its certificate: as long as a caller's connection waits for its first byte.
_ANSWERED_WITHIN: Final = 1.0
# Seconds until one that has answered is asked again. A check costs the replica a handshake.
_ASKED_EVERY: Final = 1.0


class FrontCheck:
    """The checks in progress, one at a time for each replica."""

    def __init__(
        self,
        fronts: Fronts,
        carrier: Carrier,
        ca: Callable[[], bytes],
        clock: Monotonic,
        *,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """ca: any CA (PEM). What the replica shows need not be trusted: that it shows something is asked."""
        self._fronts = fronts
        self._carrier = carrier
        self._ca = ca
        self._clock = clock
        self._asked: dict[tuple[str, str], float] = {}  # replica and address: when last
        self._tasks = Tasks("checks of registries", on_failure)

    def doubt(self, front: Front) -> None:
        """Ask it, unless it is being asked or has just been; one that does not answer has failed."""
        key, now = (front.replica, str(front.address)), self._clock()
        self._asked = {one: at for one, at in self._asked.items() if now - at < _ANSWERED_WITHIN + _ASKED_EVERY}
        if key not in self._asked:
            self._asked[key] = now
            self._tasks.spawn(self._check(front), name="ask a registry")

    async def close(self) -> None:
        await self._tasks.close()

    async def _check(self, front: Front) -> None:
        if not await self._answers(front):
            self._fronts.failed(front)

    async def _answers(self, front: Front) -> bool:
        try:
            stream = self._carrier.connect(front.address, ClientTls(self._ca(), self._fronts.name))
        except CarrierError:
            return False
        try:
            async with asyncio.timeout(_ANSWERED_WITHIN):
                await stream.ready()
        except HandshakeFailed as error:
            return error.untrusted
        except (CarrierError, TimeoutError):
            return False
        finally:
            stream.abort()
        return True
