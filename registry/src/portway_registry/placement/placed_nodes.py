"""A node as placement sees it: where it is, whether it takes clients, how loaded it is.

Here: the value, and what load costs. Not here: distance (distance.py), choice (order.py).
"""

from dataclasses import dataclass

from portway_geo.position import Position
from portway_proto.v1.types_pb2 import NodeInfo

from portway_registry.state.records import is_ready

# A full node stands as far behind an idle one as 30 ms of round trip, some 1,400 km of path; by the square, so that
# a node half full costs 7.5 ms: distance decides until a node nears its end.
FULL_PENALTY_MS = 30.0
# Load of a node by its visits: at so many it counts as full. 10,000 idle visits of 50 KB are 500 MB.
FULL_VISITS = 10_000

# Where nodes are: a region, and a position within it if it is known.
Place = tuple[str, Position | None]


@dataclass(frozen=True, slots=True)
class PlacedNode:
    """`max_sessions` 0 means no limit; `position` is None when it is unknown."""

    name: str
    region: str
    position: Position | None
    ready: bool = True
    sessions: int = 0
    max_sessions: int = 0
    visits: int = 0

    @property
    def place(self) -> Place:
        """What it has in common with the nodes that nothing but load tells it apart from."""
        return (self.region, self.position)

    @property
    def takes_clients(self) -> bool:
        """Reached, neither cordoned nor draining nor full."""
        return self.ready and (self.max_sessions == 0 or self.sessions < self.max_sessions)

    @property
    def load(self) -> float:
        """0 idle to 1 full: by sessions where they have a limit, or by visits, whichever is nearer its end."""
        by_sessions = self.sessions / self.max_sessions if self.max_sessions else 0.0
        return min(1.0, max(by_sessions, self.visits / FULL_VISITS))

    @property
    def penalty_ms(self) -> int:
        """What its load adds to the round trip, in whole milliseconds: less is no difference to act on."""
        return round(FULL_PENALTY_MS * self.load**2)


def placed_node(info: NodeInfo) -> PlacedNode:
    """A node as it registered or last reported; degrees that are none count as unknown."""
    known = (info.latitude, info.longitude) != (0, 0)
    sound = -90 <= info.latitude <= 90 and -180 <= info.longitude <= 180
    return PlacedNode(
        name=info.name,
        region=info.region,
        position=Position(info.latitude, info.longitude) if known and sound else None,
        ready=is_ready(info),
        sessions=info.sessions,
        max_sessions=info.max_sessions,
        visits=info.visits,
    )
