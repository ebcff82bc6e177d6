"""Telling the nodes of a region whose its blocks of raw ports are: only a block's owner signs tickets for its ports.

Here: the list of each region, and when it is sent again. Not here: how blocks are reserved (tunnels/port_blocks.py).
"""

from collections.abc import Mapping
from typing import Final

from portway_proto.v1.mesh_pb2 import PortOwners

from portway_registry.nodes.session import NodeSession
from portway_registry.state.gathered_changes import GatheredChanges
from portway_registry.state.records import PortBlockRecord
from portway_registry.state.views import Item, View
from portway_registry.tunnels.port_blocks import BLOCK_SIZE

# Seconds that changes of a region are gathered. A node may open a tunnel with a port of a new block at once, and its
# siblings listen only when they know whose the block is.
_GATHERED: Final = 0.02


class RegionPorts:
    """The owners of the blocks of every region, and the nodes' streams here."""

    def __init__(self, blocks: View[PortBlockRecord], sessions: Mapping[str, NodeSession]) -> None:
        self._blocks = blocks
        self._sessions = sessions
        self._changed: set[str] = set()  # regions
        self._changes = GatheredChanges(_GATHERED)

    def owners(self, region: str) -> PortOwners:
        """The whole list of a region, by port."""
        prefix = f"{region}/"
        found = sorted((name, item.value.node) for name, item in self._blocks.items.items() if name.startswith(prefix))
        owners = PortOwners()
        for name, node in found:
            first = int(name.removeprefix(prefix))
            owners.owners.add(first=first, last=first + BLOCK_SIZE - 1, node=node)
        return owners

    def block_changed(self, old: Item[PortBlockRecord] | None, new: Item[PortBlockRecord] | None) -> None:
        """Of the view: a block that is merely renewed is no news."""
        either = new or old
        if either is not None and (None if old is None else old.value.node) != (
            None if new is None else new.value.node
        ):
            self._changed.add(either.name.partition("/")[0])
            self._changes.notice()

    async def send_changes(self) -> None:
        """Send, for ever, the lists that changed to the nodes of their regions."""
        while True:
            await self._changes.wait()
            changed, self._changed = self._changed, set()
            lists = {region: self.owners(region) for region in changed}
            for session in self._sessions.values():
                if session.info.region in lists:
                    session.outbox.port_owners(lists[session.info.region])
