"""Visitors of each region, at their region's node: what each visit took, where its tunnel was homed, what failed.

Here: threads in the visitors' places, and the sums of what they saw. Not here: restarts (command.py).
"""

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from portway_testkit.visitors.going_on import GoingOn

from portway_lab.cluster.clients import NamedTunnel
from portway_lab.cluster.network import Network
from portway_lab.cluster.visits import Ask, ask, connect, visitor_context

_TIMEOUT = 15.0
_BETWEEN = 0.05  # seconds between two visits of a thread
_QUICK = Ask(1_000)
# Longer than a node lets visits go on whose client has closed the tunnel: such a visit is cut if a return counts as
# closing.
_SLOW = Ask(20_000, seconds=8.0)
_SLOW_AT_ONCE = 4  # in each region


class Visitors(GoingOn):
    """`with Visitors(...) as visitors:` visits until the block ends.

    Each region has a thread with quick visits, and some with visits that take eight seconds. A visit goes to the node
    of its region, or to another one while that is in `down`, as by a name server that checks which nodes are up.
    """

    def __init__(
        self,
        network: Network,
        ca: Path,
        tunnels: Mapping[str, Sequence[NamedTunnel]],
        listens: Mapping[str, str],
        places: Mapping[str, str],
    ) -> None:
        """By region: the tunnels that were opened there, where its node listens, the visitors' place."""
        self._network = network
        self._ca = ca
        self._tunnels = tunnels
        self._listens = listens
        self._places = places
        self._lock = threading.Lock()
        super().__init__(
            threading.Thread(target=self._visit, args=(region, question))
            for region in tunnels
            for question in (_QUICK, *[_SLOW] * _SLOW_AT_ONCE)
        )
        self.down: set[str] = set()  # regions whose node must not be used
        self.homes: Mapping[str, str] = {}  # the region of the home node of each label, as it was seen last
        self.phase = ""  # a name for what happens now
        self.made: dict[str, int] = defaultdict(int)  # visits that began in each phase
        self.failures: dict[str, list[str]] = defaultdict(list)  # of those
        self._took: dict[tuple[str, bool], list[float]] = defaultdict(list)

    def median_ms(self, region: str, *, at_nearest: bool) -> float | None:
        """Of the region's quick visits, from connecting to the whole answer: those of tunnels that were homed in it
        then, or those that were homed elsewhere. None without any."""
        with self._lock:
            took = self._took[region, at_nearest]
            return statistics.median(took) * 1000 if took else None

    def _visit(self, region: str, question: Ask) -> None:
        context = visitor_context(self._ca)
        number = 0
        with self._network.inside(self._places[region]):
            while not self._over.wait(_BETWEEN):
                number += 1
                tunnel = self._tunnels[region][number % len(self._tunnels[region])]
                node = next(one for one in (region, *self._listens) if one not in self.down)
                phase, home = self.phase, self.homes.get(tunnel.label)
                began = time.monotonic()
                failure = ""
                try:
                    with connect(context, self._listens[node], tunnel, _TIMEOUT) as connection:
                        ask(connection, tunnel, question)
                except OSError as error:
                    failure = f"{tunnel.name} at {node}, {'slow' if question.seconds else 'quick'}: {error!r}"
                took = time.monotonic() - began
                with self._lock:
                    self.made[phase] += 1
                    if failure:
                        self.failures[phase].append(failure)
                    elif question is _QUICK and node == region and home and home == self.homes.get(tunnel.label):
                        self._took[region, home == region].append(took)
