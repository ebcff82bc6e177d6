"""Measuring how far the registry's replicas are: each list as soon as it is known, and all of them now and then.

Here: dialling them. Not here: which replicas there are, and what follows from a round trip (fronts.py).
"""

import asyncio
from collections.abc import Callable
from typing import Final

from portway_carrier.contract import Carrier
from portway_carrier.errors import CarrierError
from portway_runtime.tasks import Tasks

from portway_relay.passages.fronts import Front, Fronts

# Seconds between two measurements of all replicas, when there are several.
_EVERY: Final = 60.0
# Seconds for one to be reached.
_REACHED_WITHIN: Final = 3.0


class FrontMeasuring:
    """Notes the round trip of each front; nothing is sent to any."""

    def __init__(self, fronts: Fronts, carrier: Carrier, *, on_failure: Callable[[BaseException], None]) -> None:
        self._fronts = fronts
        self._carrier = carrier
        self._changed = asyncio.Event()
        self._tasks = Tasks("registry fronts", on_failure)
        fronts.subscribe(self._changed.set)

    def start(self) -> None:
        """Measure them, from now on."""
        self._tasks.spawn(self._keep_measured(), name="measure")

    async def close(self) -> None:
        await self._tasks.close()

    async def _keep_measured(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_EVERY):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            fronts = self._fronts.in_order()
            if len(fronts) > 1:
                await asyncio.gather(*map(self._measure, fronts))

    async def _measure(self, front: Front) -> None:
        """That it accepts says nothing of whether it answers."""
        stream = self._carrier.connect(front.address, None)
        try:
            async with asyncio.timeout(_REACHED_WITHIN):
                handshake = await stream.ready()
        except (CarrierError, TimeoutError):
            self._fronts.failed(front)
        else:
            front.round_trip = handshake.took if handshake.round_trip is None else handshake.round_trip
        finally:
            stream.abort()
