"""Tells the program's log of visitors whom its local servers did not take: only it can mend that.

Not here: what the visitor is told (the node's page), why no visitor comes at all (lanes.py).
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from portway_proto.wire.frames import Opening, RefusalReason

logger = logging.getLogger(__name__)

# A browser asks again and again: once is enough for a while, of each tunnel and for each reason.
TOLD_AGAIN: Final = 60.0


class RefusedVisits:
    """The ServeEvents of a client."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[tuple[str, RefusalReason], float] = {}

    def visit_refused(self, opening: Opening, reason: RefusalReason, message: str) -> None:
        if reason is RefusalReason.NOT_HERE:
            return  # the tunnel was closed just now
        now = self._clock()
        self._told = {what: at for what, at in self._told.items() if now - at < TOLD_AGAIN}
        if (opening.label, reason) in self._told:
            return
        self._told[opening.label, reason] = now
        label = opening.label[:4]
        if reason is RefusalReason.OVERLOADED:
            logger.warning(
                "a visitor of tunnel %s… was turned away: %s: raise this process's limit (ulimit -n)", label, message
            )
        else:
            logger.warning("a visitor of tunnel %s… found no server: %s: is it running?", label, message)
