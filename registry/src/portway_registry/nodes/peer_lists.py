"""The list of nodes that every node gets, in as many messages as it needs.

Not here: which nodes are in it (hub.py).
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any, Final

from portway_proto.v1.mesh_pb2 import CertifiedSince, Peers
from portway_proto.v1.types_pb2 import NodeInfo

# Bytes. Nodes accept messages of 4 MiB: over 3,000 nodes with the longest names, 20,000 with usual ones.
_LARGEST_PART: Final = 3_500_000
# The tag and length of an entry, at most.
_FRAMING: Final = 6


def in_parts(
    nodes: Iterable[NodeInfo], removed: Iterable[str], certified_since: Iterable[CertifiedSince]
) -> tuple[Peers, ...]:
    """The messages of one list, in the order in which they are to be sent; at least one."""
    parts, size = [Peers()], 0
    entries: Iterable[tuple[str, Any]] = chain(
        (("removed", one) for one in removed),
        (("certified_since", one) for one in certified_since),
        (("nodes", one) for one in nodes),
    )
    for field, entry in entries:
        length = _FRAMING + (len(entry.encode()) if isinstance(entry, str) else entry.ByteSize())
        if size and size + length > _LARGEST_PART:
            parts[-1].more = True
            parts.append(Peers(part=len(parts)))
            size = 0
        getattr(parts[-1], field).append(entry)
        size += length
    return tuple(parts)
