"""Telling nodes where the replicas are: their public ports, to which they pass connections on, and those for nodes.

Here: the list, and when it is sent again. Not here: a node's key (front_key.py), how a replica says where its port is
(state/replica.py).
"""

from collections.abc import Mapping
from typing import Final

from portway_proto.v1.mesh_pb2 import RegistryFront, RegistryFronts

from portway_registry.nodes.front_key import FrontKey
from portway_registry.nodes.session import NodeSession
from portway_registry.state.gathered_changes import GatheredChanges
from portway_registry.state.records import IdentityRecord, ReplicaRecord
from portway_registry.state.views import Item, Views

# Seconds that changes are gathered: replicas that start together make one list.
_GATHERED: Final = 0.05
# Replicas that a node is told of.
_MOST: Final = 64


class FrontLists:
    """The replicas that live, and the nodes' streams here."""

    def __init__(self, views: Views, key: FrontKey, sessions: Mapping[str, NodeSession], name: str) -> None:
        """name: the registry's; "": nothing is passed on to it."""
        self._views = views
        self._key = key
        self._sessions = sessions
        self._name = name
        self._changes = GatheredChanges(_GATHERED)

    def fronts(self, node: str) -> RegistryFronts:
        """The whole list for a node; without a name and public ports while there is nothing that it could pass on."""
        replicas = sorted(self._views.replicas.values(), key=lambda one: one.id)
        mesh = list(dict.fromkeys(address for one in replicas for address in one.mesh))[:_MOST]
        key = self._key.of_node(node)
        if not self._name or not key:
            return RegistryFronts(mesh=mesh)
        listed = [RegistryFront(replica=one.id, address=one.front) for one in replicas if one.front]
        return RegistryFronts(name=self._name, fronts=listed[:_MOST], key=key, mesh=mesh)

    def replica_changed(self, old: Item[ReplicaRecord] | None, new: Item[ReplicaRecord] | None) -> None:
        """Of the view: what else a replica says of itself is no news."""
        if _where(old) != _where(new):
            self._changes.notice()

    def identity_changed(self, old: Item[IdentityRecord] | None, new: Item[IdentityRecord] | None) -> None:
        """Of the view: a renewed certificate is no news."""
        if (None if old is None else old.value.joined_at_ms) != (None if new is None else new.value.joined_at_ms):
            self._changes.notice()

    def key_changed(self, *_: object) -> None:
        """Of the view."""
        self._changes.notice()

    async def send_changes(self) -> None:
        """Send, for ever, the list to all nodes when it has changed."""
        while True:
            await self._changes.wait()
            for name, session in self._sessions.items():
                session.outbox.registry_fronts(self.fronts(name))


def _where(item: Item[ReplicaRecord] | None) -> tuple[str, tuple[str, ...]]:
    return ("", ()) if item is None else (item.value.front, item.value.mesh)
