"""The death of a region: all of it falls silent, for want of power or of its uplink; clients move, leases end.

Here: the order of events. Not here: what a client does (returning.py), what nodes do (storm.py), the registry's load
(registry_load.py).
"""

import heapq
import math
import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Final

from portway_lab.simulation.arrivals import Sessions
from portway_lab.simulation.clients import Prefix
from portway_lab.simulation.fleet import KEEP_ALIVE_SECONDS, LEASE_SECONDS, Fleet
from portway_lab.simulation.paths import Paths
from portway_lab.simulation.returning import Lost, Resumptions, Returning
from portway_lab.simulation.storm import Death, Storm

LONGEST: Final = 600  # seconds; a client that is not back by then is counted as lost


def kill_region(
    region: int,
    fleet: Fleet,
    sessions: Sessions,
    prefixes: Sequence[Prefix],
    paths: Paths,
    rng: random.Random,
    *,
    replicas: Sequence[int],
) -> Death:
    """Simulate it to its end, from the fleet's time on. Changes the fleet."""
    death = Death(region)
    storm = Storm(fleet, death, rng)
    second = math.ceil(fleet.now)
    dead = fleet.of_region(region)
    for number in dead:
        fleet.nodes[number].alive = False
    # Tunnels whose record still depends on the lease of a dead node, by node.
    away: Counter[int] = Counter()

    def served(session: int, node: int) -> None:
        home, row = sessions.node[session], paths.row(sessions.prefix[session])
        if away[home]:
            away[home] -= 1
        death.binds[int(storm.now)] += 1
        death.back.append(storm.now)
        death.homes[session] = node
        death.landed[fleet.nodes[node].region] += 1
        death.before_ms.append(row[region])
        death.after_ms.append(row[fleet.nodes[node].region])

    order = count()
    due: list[tuple[float, int, Resumptions]] = []
    gone = set(dead)
    for session, home in enumerate(sessions.node):
        if home not in gone:
            continue
        away[home] += 1
        prefix = sessions.prefix[session]
        lost = Lost(home, sessions.candidates(session), prefixes[prefix].guess, paths.row(prefix))
        client = Returning(storm, lost, replicas, partial(served, session)).run()
        heapq.heappush(due, (next(client), next(order), client))
    death.moved = sum(away.values())
    # A lease is counted from the last KeepAlive.
    leases = sorted((LEASE_SECONDS - rng.uniform(0.0, KEEP_ALIVE_SECONDS), number) for number in dead)
    moment = 0
    while (due or leases) and moment < LONGEST:
        fleet.report(second + moment)
        moment += 1
        while (due and due[0][0] < moment) or (leases and leases[0][0] < moment):
            if leases and (not due or leases[0][0] <= due[0][0]):
                at, number = leases.pop(0)
                fleet.forget([number])
                death.leases_ended.append(at)
                death.deletes[int(at)] += away.pop(number, 0)
                continue
            storm.now, _, client = heapq.heappop(due)
            wake = next(client, None)
            if wake is not None:
                heapq.heappush(due, (wake, next(order), client))
    return death
