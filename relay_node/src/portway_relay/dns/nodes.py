"""Which nodes a name leads to: the nearest to whoever asks of those that serve it.

Here: the choice, and the order in which equally near ones take turns. Pure: a value in, values out. Not here: which
nodes there are (table.py), names (zone.py).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from portway_geo.ordering import NearestFirst
from portway_geo.position import Position, unit_vector

# Addresses of a tunnel's name: whoever finds the first one dead tries the other at once. A third one leads out of the
# region where both are, for the day on which it is lost.
CHOSEN: Final = 2
# Km by which nodes of one place differ: they take turns, since one of them would else get all visitors around.
_ONE_PLACE: Final = 20.0
# Answers among which the nodes of one place take turns, at most.
_MOST_TURNS: Final = 16


class Health(IntEnum):
    """How fit a node is for visitors, the fittest first. A worse one is named only where no better one serves."""

    READY = 0
    CORDONED = 1
    DRAINING = 2
    LOST = 3  # its lane to this node was reset, or it is silent


@dataclass(frozen=True, slots=True)
class DnsNode:
    """A node as names lead to it. Addresses are 4 and 16 bytes."""

    name: str
    region: str
    health: Health
    zones: frozenset[str]
    ipv4: tuple[bytes, ...] = ()
    ipv6: tuple[bytes, ...] = ()
    position: Position | None = None

    def addresses(self, family: int) -> tuple[bytes, ...]:
        """Those of a family, 4 or 6."""
        return self.ipv4 if family == 4 else self.ipv6


class NodeChoice:
    """The nodes of one time, and who is near to whom."""

    def __init__(self, nodes: Sequence[DnsNode], own: str, *, other_region: bool = True) -> None:
        """
        own: the name of the node that answers. An asker whose position is unknown counts as near it: resolvers ask
            the name server that answers them fastest.
        other_region: whether a node of another region is named where all others are of one.
        """
        self.nodes = tuple(nodes)
        self._other_region = other_region
        self._placed = [node for node in nodes if node.position is not None]
        self._nearest = NearestFirst([unit_vector(node.position) for node in self._placed if node.position is not None])
        self.own = own
        self._own_position = next((node.position for node in nodes if node.name == own), None)

    def turns(
        self, serves: Callable[[DnsNode], bool], family: int, asker: Position | None, *, region: str = "", most: int
    ) -> list[list[bytes]]:
        """The addresses of `most` nodes at most that serve and have one of this family, nearest first, and where all of
        these are of one region, one of the nearest of another; one list for each turn of nodes in one place. Empty
        without any such node.

        region: whose nodes come first among those of unknown position.
        """
        candidates = [node for node in self.nodes if serves(node) and node.addresses(family)]
        if not candidates:
            return []
        best = min(node.health for node in candidates)
        groups = self._groups({n.name for n in candidates if n.health == best}, asker, region)
        near = _as_needed(groups, most)
        far = _elsewhere(near, groups) if self._other_region else None
        count = min(_MOST_TURNS, max(map(len, (*near, far or ()))))
        return [_addresses(near, far, turn, family, most) for turn in range(count)]

    def _groups(self, names: set[str], asker: Position | None, region: str) -> Iterator[list[DnsNode]]:
        """The named nodes, those of one place together, the nearest place first, those of unknown position last."""
        origin = asker or self._own_position
        group: list[DnsNode] = []
        begins = 0.0
        if origin is not None:
            for index, km in self._nearest.order_from(origin):
                node = self._placed[index]
                if node.name not in names:
                    continue
                if group and km - begins > _ONE_PLACE:
                    yield group
                    group = []
                if not group:
                    begins = km
                group.append(node)
            if group:
                yield group
        rest = [node for node in self.nodes if node.name in names and (origin is None or node.position is None)]
        for wanted in (
            [node for node in rest if node.region == region],
            [node for node in rest if node.region != region and node.name == self.own],
            [node for node in rest if node.region != region and node.name != self.own],
        ):
            if wanted:
                yield wanted


def _as_needed(groups: Iterator[list[DnsNode]], most: int) -> list[list[DnsNode]]:
    """The first groups that together have `most` nodes."""
    needed: list[list[DnsNode]] = []
    count = 0
    for group in groups:
        needed.append(group)
        count += len(group)
        if count >= most:
            break
    return needed


def _elsewhere(near: Sequence[Sequence[DnsNode]], groups: Iterator[list[DnsNode]]) -> list[DnsNode]:
    """The nearest nodes of another region than all of `near`; none where these are of several. groups: what follows."""
    regions = {node.region for group in near for node in group}
    if len(regions) > 1:
        return []
    others = ([node for node in group if node.region not in regions] for group in groups)
    return next((group for group in others if group), [])


def _addresses(
    near: Sequence[Sequence[DnsNode]], far: Sequence[DnsNode] | None, turn: int, family: int, most: int
) -> list[bytes]:
    """One address of each of the first `most` nodes, the nodes of each group moved on by `turn`; with fewer nodes their
    other addresses, too. Where these nodes are of one region, and `far` is not None, one of another."""
    ordered = [node for group in near for node in _moved_on(group, turn)]
    nodes = ordered[:most]
    found = [_address(node, turn, family) for node in nodes]
    others = (address for node in nodes for address in node.addresses(family))
    for address in others:
        if len(found) < most and address not in found:
            found.append(address)
    if far is not None and len({node.region for node in nodes}) == 1:
        beside = [node for node in ordered[most:] if node.region != nodes[0].region]
        found += [_address(node, turn, family) for node in (beside or _moved_on(far, turn))[:1]]
    return list(dict.fromkeys(found))


def _address(node: DnsNode, turn: int, family: int) -> bytes:
    addresses = node.addresses(family)
    return addresses[turn % len(addresses)]


def _moved_on(group: Sequence[DnsNode], turn: int) -> list[DnsNode]:
    start = turn % len(group) if group else 0
    return [*group[start:], *group[:start]]
