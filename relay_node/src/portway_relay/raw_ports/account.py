"""The account of a region's raw TCP ports, as one node keeps it: held, free, resting. Pure, without sockets.

A node gives a new label ports of its own blocks only, so no two nodes give the same port. To a label that shows the
newest ticket for a port it gives that one, whichever block it is of. A released port rests, so that visitors that still
hold its old address do not reach another tenant's tunnel; the label that had it can have it at once.

A port that was in use is given to another label only after its rest and after a registry has said that no tunnel has
it: the tunnel may be at a node that this one does not hear from. Not here: tickets (owners.py), ports of siblings'
tunnels (sibling_ports.py).
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from portway_runtime.clocks import Monotonic

from portway_relay.config import PortRange

# The label of a resting port whose last tunnel is not known; it was given before this node started. Any label with a
# ticket for the port may have it.
_UNKNOWN_LABEL: Final = ""


@dataclass(frozen=True, slots=True)
class Block:
    """Ports that only this node gives; `fresh` when none of them has been given before."""

    ports: PortRange
    fresh: bool


@dataclass(frozen=True, slots=True)
class _Rest:
    label: str
    until: float


class PortAccount:
    """The ports of a region as one node knows them."""

    def __init__(
        self,
        ports: PortRange,
        rest: float,
        clock: Monotonic,
        chance: random.Random | None = None,
        *,
        at_sibling: Callable[[int], str | None] = lambda port: None,
    ) -> None:
        """
        ports: the region's.
        rest: seconds that a released port rests.
        at_sibling: the label of the tunnel that another node serves at a port; None without one.
        """
        self._ports = ports
        self._rest = rest
        self._clock = clock
        # Ports are no secrets, and yet the next one should not follow from the last one.
        self._chance = chance or random.SystemRandom()
        self._at_sibling = at_sibling
        self._blocks: frozenset[PortRange] = frozenset()
        self._held: dict[int, str] = {}
        self._free: set[int] = set()  # of this node's blocks: neither held nor resting
        self._used: set[int] = set()  # of the free ones: those that a tunnel has had
        self._resting: dict[int, _Rest] = {}  # of this node's blocks
        self.registry_away = False

    @property
    def held(self) -> int:
        """The number of ports held by tunnels of this node."""
        return len(self._held)

    @property
    def resting(self) -> int:
        """The number of ports that rest."""
        return len(self._resting)

    @property
    def range(self) -> PortRange:
        """The region's ports."""
        return self._ports

    @property
    def blocks(self) -> int:
        """The number of blocks that this node has."""
        return len(self._blocks)

    @property
    def free(self) -> int:
        """The number of ports that a new label could have now."""
        return sum(map(self._may_give, self._free))

    @property
    def next_rested(self) -> float | None:
        """When the first resting port has rested; None when none rests."""
        return min((rest.until for rest in self._resting.values()), default=None)

    @property
    def rested(self) -> int:
        """The number of ports that have rested: they are free once a registry has confirmed them."""
        now = self._clock()
        return sum(rest.until <= now for rest in self._resting.values())

    def is_mine(self, port: int) -> bool:
        """Whether it is of a block of this node, which alone gives it to new labels and signs tickets for it."""
        return any(port in ports for ports in self._blocks)

    def holder(self, port: int) -> str | None:
        """The label of this node's own tunnel with this port."""
        return self._held.get(port)

    def candidates(self, label: str, wanted: int | None) -> Iterator[int]:
        """The ports that this label may have, each once: first `wanted`, then one that rests for it, then at random."""
        if wanted is not None and self._belongs_to(wanted, label):
            yield wanted
        for port in [port for port, rest in self._resting.items() if rest.label == label]:
            if port != wanted:
                yield port
        for port in self._chance.sample(sorted(self._free), len(self._free)):
            if port != wanted and self._may_give(port):
                yield port

    def hold(self, port: int, label: str) -> None:
        """Give the port to this label's tunnel."""
        self._resting.pop(port, None)
        self._free.discard(port)
        self._held[port] = label

    def release(self, port: int) -> None:
        """Let a held port rest. No effect on one that is not held."""
        label = self._held.pop(port, None)
        if label is not None:
            self.rest(port, label)

    def rest(self, port: int, label: str) -> None:
        """Let a port rest that a tunnel, here or at a sibling, has released. No effect on one that is held."""
        if port not in self._held and self.is_mine(port):
            self._free.discard(port)
            self._resting[port] = _Rest(label, self._clock() + self._rest)

    def reserved(self, blocks: Iterable[Block], held: Mapping[int, str]) -> None:
        """Take over a registry's word on all blocks of this node, and on the labels that hold ports of them."""
        fresh_by_ports = {block.ports: block.fresh for block in blocks}
        for ports in self._blocks - fresh_by_ports.keys():
            for port in range(ports.first, ports.last + 1):
                self._free.discard(port)
                self._resting.pop(port, None)
        new = fresh_by_ports.keys() - self._blocks
        self._blocks = frozenset(fresh_by_ports)
        for ports in sorted(new, key=lambda ports: ports.first):
            for port in range(ports.first, ports.last + 1):
                self._begin(port, held.get(port), fresh=fresh_by_ports[ports])

    def confirmed(self, asked_at: float, held: Mapping[int, str]) -> None:
        """Free the ports that had rested at `asked_at`, when a registry was asked, and are not among `held`."""
        for port, rest in list(self._resting.items()):
            if rest.until > asked_at:
                continue
            del self._resting[port]
            label = held.get(port) or self._at_sibling(port)
            if label is None:
                self._free.add(port)
                self._used.add(port)
            else:
                self._resting[port] = _Rest(label, self._clock() + self._rest)

    def _begin(self, port: int, label: str | None, *, fresh: bool) -> None:
        """Take up a port of a new block."""
        if port in self._held:
            return
        if fresh and label is None:
            self._free.add(port)
            self._used.discard(port)
        else:
            self._resting[port] = _Rest(label or _UNKNOWN_LABEL, self._clock() + self._rest)

    def _may_give(self, port: int) -> bool:
        return self._at_sibling(port) is None and not (self.registry_away and port in self._used)

    def _belongs_to(self, port: int, label: str) -> bool:
        """Whether a label that shows the newest ticket for a port may have it."""
        if port not in self._ports or port in self._held:
            return False
        if not self.is_mine(port):
            return True
        rest = self._resting.get(port)
        if rest is not None:
            return rest.label in (label, _UNKNOWN_LABEL)
        return self._at_sibling(port) in (label, None)
