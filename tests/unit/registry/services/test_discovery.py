"""What a survey shows of a cluster that has more nodes than it may show."""

from portway_proto.v1.types_pb2 import NodeInfo
from portway_registry.placement.placed_nodes import placed_node
from portway_registry.placement.shortlist import Ranked
from portway_registry.services.discovery import _MOST_SURVEYED, _some_of_each_region


def found(**regions: int) -> list[tuple[NodeInfo, Ranked]]:
    """So many nodes of each region, in this order."""
    nodes = [NodeInfo(name=f"{region}-{n}", region=region) for region, number in regions.items() for n in range(number)]
    return [(node, Ranked(placed_node(node), 0)) for node in nodes]


def test_a_small_cluster_is_shown_whole() -> None:
    """In its order."""
    everything = found(fra=_MOST_SURVEYED - 1, syd=1)
    assert _some_of_each_region(everything) == everything


def test_of_a_large_one_each_region_is_shown() -> None:
    """With its best nodes, in their order, no more than may be."""
    everything = found(fra=1000, lon=1, syd=500)
    shown = [node.name for node, _ in _some_of_each_region(everything)]
    assert len(shown) == _MOST_SURVEYED
    assert shown[:2] == ["fra-0", "fra-1"]
    assert shown[-1] == "syd-98"
    assert "lon-0" in shown
    assert shown == [node.name for node, _ in everything if node.name in shown]
