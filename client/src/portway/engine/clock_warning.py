"""ClockWarning: tells the program's log, once, that this machine's clock is wrong.

No decision compares clocks, and certificates and grants tolerate more.
"""

import logging
import time
from typing import Final

logger = logging.getLogger(__name__)

DIFFERENCE: Final = 300.0  # seconds


class ClockWarning:
    """Of one link."""

    def __init__(self) -> None:
        self._given = False

    def compare(self, node: str, node_time: float) -> None:
        """The node with this name says that it is `node_time`, seconds since the Unix epoch; 0 if it does not say."""
        ahead = time.time() - node_time
        if node_time and abs(ahead) > DIFFERENCE and not self._given:
            self._given = True
            way = "ahead of" if ahead > 0 else "behind"
            logger.warning("this clock is %.0f s %s that of node %s: set it right", abs(ahead), way, node)
