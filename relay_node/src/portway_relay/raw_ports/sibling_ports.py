"""Raw ports of tunnels that siblings (other nodes of this region) hold.

A visitor may come to any node of the region, so this one listens on those ports too, and forwards by label. Here: which
ports those are; each by the newest ticket for it. Not here: sockets (sockets.py), this node's own ports (account.py),
the checking of tickets and claims (mesh/sibling_tunnels.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SiblingPort:
    """A port that a sibling's tunnel has."""

    label: str = field(repr=False)
    node: str
    epoch: int
    port: int


class SiblingPortMap:
    """One tunnel for each port, one port for each label."""

    def __init__(self) -> None:
        self._by_port: dict[int, SiblingPort] = {}
        self._by_label: dict[str, SiblingPort] = {}

    def __len__(self) -> int:
        return len(self._by_port)

    def label(self, port: int) -> str | None:
        """The label of the sibling's tunnel that has this port."""
        known = self._by_port.get(port)
        return None if known is None else known.label

    def of_label(self, label: str) -> SiblingPort | None:
        return self._by_label.get(label)

    def of_port(self, port: int) -> SiblingPort | None:
        return self._by_port.get(port)

    def of_node(self, node: str) -> Iterator[SiblingPort]:
        """Those of this sibling; they may be removed meanwhile."""
        return (known for known in list(self._by_port.values()) if known.node == node)

    def add(self, new: SiblingPort) -> None:
        """Another one with the port or the label must be removed before."""
        self._by_port[new.port] = self._by_label[new.label] = new

    def remove(self, known: SiblingPort) -> None:
        del self._by_port[known.port]
        del self._by_label[known.label]


class Account(Protocol):
    """This node's own ports."""

    def rest(self, port: int, label: str) -> None: ...


class Sockets(Protocol):
    """The sockets that listen on raw ports."""

    def serve(self, port: int, label: str) -> None: ...
    def stop_serving(self, port: int, label: str) -> None: ...


class SiblingPorts:
    """Turns what siblings have shown into listening sockets."""

    def __init__(self, ports: range, known: SiblingPortMap, account: Account, sockets: Sockets) -> None:
        """ports: the region's; any other port is ignored."""
        self._ports = ports
        self._known = known
        self._account = account
        self._sockets = sockets

    def bound(self, new: SiblingPort) -> None:
        """A sibling holds this tunnel: claim, presence and ticket were checked, and each is the newest."""
        before = self._known.of_label(new.label)
        if before is not None and before.epoch > new.epoch:
            return
        if before is not None and before.port == new.port:
            self._known.add(new)
            return
        if before is not None:
            self._drop(before)
        if new.port not in self._ports:
            return
        current = self._known.of_port(new.port)
        if current is not None:
            self._remove(current)
        self._known.add(new)
        self._sockets.serve(new.port, new.label)

    def gone(self, node: str, label: str, epoch: int) -> None:
        """A sibling does not hold the label with that epoch any more."""
        known = self._known.of_label(label)
        if known is not None and known.node == node and known.epoch <= epoch:
            self._drop(known)

    def whole(self, node: str, labels: set[str]) -> None:
        """A sibling holds raw tunnels of these labels and no others."""
        for known in self._known.of_node(node):
            if known.label not in labels:
                self._drop(known)

    def _drop(self, known: SiblingPort) -> None:
        self._remove(known)
        self._account.rest(known.port, known.label)

    def _remove(self, known: SiblingPort) -> None:
        self._known.remove(known)
        self._sockets.stop_serving(known.port, known.label)
