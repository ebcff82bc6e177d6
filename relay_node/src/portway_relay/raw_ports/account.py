"""Which raw TCP ports of its region a node may give to whom: a pure account, without a socket.

A node gives ports of its own blocks alone, so that no two nodes give one port twice; to a label that shows a ticket it
gives any port of the region that is known to be that label's. A port that is let go rests: whoever still has its old
address in hand must not reach somebody else's tunnel. To the label that had it, it is free at once.

A port that was in use is given to another label only after its rest and after a registry has said that nobody has it:
its label may be at a node that this one does not hear from. Not here: what siblings say (mesh/sibling_ports.py).
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from portway_runtime.clocks import Monotonic

from portway_relay.config import PortRange

# What is remembered of other nodes' ports is believed for less time than their nodes let them rest.
BELIEVED: Final = 0.5
# Whose a port was that this node gave before it was started, and now nobody remembers: of whoever shows its ticket.
_NOBODY_KNOWS: Final = ""


@dataclass(frozen=True, slots=True)
class Block:
    """Ports that this node alone gives; `fresh` when none of them can have been given before."""

    ports: PortRange
    fresh: bool


@dataclass(frozen=True, slots=True)
class _Rest:
    label: str
    until: float


class PortAccount:
    """The ports of a region as one node sees them."""

    def __init__(
        self,
        ports: PortRange,
        rest: float,
        clock: Monotonic,
        chance: random.Random | None = None,
        *,
        at_sibling: Callable[[int], str | None] = lambda port: None,
    ) -> None:
        """`ports` are the region's; `at_sibling` says whose a port is that another node serves."""
        self._ports = ports
        self._rest = rest
        self._clock = clock
        # Not a secret, but not to be guessed from the last one either.
        self._chance = chance or random.SystemRandom()
        self._at_sibling = at_sibling
        self._blocks: frozenset[PortRange] = frozenset()
        self._held: dict[int, str] = {}
        self._free: set[int] = set()  # of this node's blocks: neither held nor resting
        self._used: set[int] = set()  # of the free ones: those that some label had
        self._resting: dict[int, _Rest] = {}  # of this node's blocks
        self._remembered: dict[int, _Rest] = {}  # of other nodes' blocks, whose they are for a while
        self.registry_away = False

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def resting(self) -> int:
        return len(self._resting)

    @property
    def range(self) -> PortRange:
        return self._ports

    @property
    def blocks(self) -> int:
        return len(self._blocks)

    @property
    def free(self) -> int:
        """Ports that a new label could have."""
        return sum(map(self._may_give, self._free))

    @property
    def next_rested(self) -> float | None:
        """When the first of the resting ports may be asked for."""
        return min((rest.until for rest in self._resting.values()), default=None)

    @property
    def rested(self) -> int:
        """Ports that a registry need only be asked about before they can be given."""
        now = self._clock()
        return sum(rest.until <= now for rest in self._resting.values())

    def holder(self, port: int) -> str | None:
        """The label of this node's own tunnel with this port."""
        return self._held.get(port)

    def candidates(self, label: str, wanted: int | None) -> Iterator[int]:
        """Ports that this label may have, each once: the wanted one first, one that rests for it, then at random."""
        if wanted is not None and self._is_its_own(wanted, label):
            yield wanted
        for port in [port for port, rest in self._resting.items() if rest.label == label]:
            if port != wanted:
                yield port
        for port in self._chance.sample(sorted(self._free), len(self._free)):
            if port != wanted and self._may_give(port):
                yield port

    def knows(self, port: int, label: str, *, believed: bool) -> bool:
        """Whether memory is enough to say if a port is this label's. `believed`: its sibling was just heard from."""
        self._forget()
        if port not in self._ports or port in self._held or port in self._resting or port in self._free:
            return True
        return self._at_sibling(port) not in (label, None) or believed or port in self._remembered

    def vouched(self, port: int, label: str) -> None:
        """A registry has it as this label's."""
        self._remember(port, label)

    def hold(self, port: int, label: str) -> None:
        """From now on it is this label's."""
        self._resting.pop(port, None)
        self._remembered.pop(port, None)
        self._free.discard(port)
        self._held[port] = label

    def let_go(self, port: int) -> None:
        """It rests from now on. No effect on one that is not held."""
        label = self._held.pop(port, None)
        if label is not None:
            self.rest(port, label)

    def rest(self, port: int, label: str) -> None:
        """A tunnel that had it, here or at a sibling, has it no longer. No effect on one that is held."""
        if port in self._held:
            return
        if self._is_mine(port):
            self._free.discard(port)
            self._resting[port] = _Rest(label, self._clock() + self._rest)
        else:
            self._remember(port, label)

    def reserved(self, blocks: Iterable[Block], held: Mapping[int, str]) -> None:
        """All blocks that this node has, and whose their ports are that tunnels have, as a registry says."""
        told = {block.ports: block.fresh for block in blocks}
        for ports in self._blocks - told.keys():
            for port in range(ports.first, ports.last + 1):
                self._free.discard(port)
                self._resting.pop(port, None)
        new = told.keys() - self._blocks
        self._blocks = frozenset(told)
        for ports in sorted(new, key=lambda ports: ports.first):
            for port in range(ports.first, ports.last + 1):
                self._begin(port, held.get(port), fresh=told[ports])

    def confirmed(self, asked_at: float, held: Mapping[int, str]) -> None:
        """What a registry, asked at that time, has of tunnels with ports of this node's blocks."""
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
        """A port of a block that this node did not have a moment ago."""
        remembered = self._remembered.pop(port, None)
        if port in self._held:
            return
        if remembered is not None:
            label = remembered.label
        if fresh and label is None:
            self._free.add(port)
            self._used.discard(port)
        else:
            self._resting[port] = _Rest(label or _NOBODY_KNOWS, self._clock() + self._rest)

    def _is_mine(self, port: int) -> bool:
        return any(port in ports for ports in self._blocks)

    def _may_give(self, port: int) -> bool:
        return self._at_sibling(port) is None and not (self.registry_away and port in self._used)

    def _is_its_own(self, port: int, label: str) -> bool:
        """Whether a label that shows a ticket for a port may have it."""
        self._forget()
        if port not in self._ports or port in self._held or self._at_sibling(port) not in (label, None):
            return False
        rest = self._resting.get(port) or self._remembered.get(port)
        if rest is not None:
            return rest.label in (label, _NOBODY_KNOWS)
        return port in self._free or self._at_sibling(port) == label

    def _remember(self, port: int, label: str) -> None:
        self._remembered.pop(port, None)
        self._remembered[port] = _Rest(label, self._clock() + self._rest * BELIEVED)

    def _forget(self) -> None:
        now = self._clock()
        # Insertion order is the order of their ends.
        while self._remembered:
            port = next(iter(self._remembered))
            if self._remembered[port].until > now:
                return
            del self._remembered[port]
