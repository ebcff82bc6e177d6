"""The nodes known now, by name, by place and by region, with what follows from where the places are.

Here: keeping them together while nodes come, change and go. Not here: the order of nodes for a client (order.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from portway_geo.ordering import FarApart, NearestFirst
from portway_geo.position import Vector, unit_vector

from portway_registry.placement.placed_nodes import Group, Place, PlacedNode


@dataclass(slots=True)
class KnownPlace:
    """A place that has nodes; `vector` is None where its position is unknown."""

    region: str
    vector: Vector | None
    nodes: Group = field(default_factory=Group)


@dataclass(frozen=True, slots=True)
class Geometry:
    """What follows from the places alone; made again when one appears or vanishes."""

    located: list[KnownPlace]  # those with a position
    nearest: NearestFirst  # of `located`, by index
    unlocated: list[KnownPlace]
    far_apart: FarApart  # of the regions that have a located place
    unlocated_regions: list[str]


class Places:
    """The nodes that are known, ready to be ordered for any client."""

    def __init__(self, nodes: Iterable[PlacedNode] = ()) -> None:
        self._nodes: dict[str, PlacedNode] = {}
        self._places: dict[Place, KnownPlace] = {}
        self._regions: dict[str, Group] = {}
        self._geometry: Geometry | None = None
        for node in nodes:
            self.put(node)

    def __len__(self) -> int:
        return len(self._nodes)

    def put(self, node: PlacedNode) -> None:
        """Add a node, or replace the one of its name."""
        before = self._nodes.get(node.name)
        if before is not None and before.place != node.place:
            self.remove(node.name)
        self._nodes[node.name] = node
        key = node.place
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = KnownPlace(node.region, unit_vector(node.position) if node.position else None)
            self._geometry = None
        place.nodes.put(node)
        self._regions.setdefault(node.region, Group()).put(node)

    def remove(self, name: str) -> None:
        """Remove a node, if it is known."""
        node = self._nodes.pop(name, None)
        if node is None:
            return
        region = self._regions[node.region]
        region.remove(name)
        if not region:
            del self._regions[node.region]
        key = node.place
        place = self._places[key]
        place.nodes.remove(name)
        if not place.nodes:
            del self._places[key]
            self._geometry = None

    def node(self, name: str) -> PlacedNode | None:
        """A node, if it is known."""
        return self._nodes.get(name)

    def place(self, key: Place) -> KnownPlace | None:
        """A place, if it has nodes."""
        return self._places.get(key)

    @property
    def regions(self) -> Mapping[str, Group]:
        """The nodes of each region."""
        return self._regions

    @property
    def geometry(self) -> Geometry:
        """The places' geometry as of now."""
        geometry = self._geometry
        if geometry is None:
            geometry = self._geometry = self._measure()
        return geometry

    def _measure(self) -> Geometry:
        located = [place for place in self._places.values() if place.vector is not None]
        vectors = [place.vector for place in located if place.vector is not None]
        # A region of several places is where its last one is: near enough to tell which regions are far apart.
        by_region = {place.region: vector for place, vector in zip(located, vectors, strict=True)}
        return Geometry(
            located,
            NearestFirst(vectors),
            [place for place in self._places.values() if place.vector is None],
            FarApart(by_region),
            [region for region in self._regions if region not in by_region],
        )
