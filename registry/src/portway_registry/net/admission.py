"""Which connections of a port get a handshake, which make room for others, and whose calls are too many.

Here: decisions. Not here: sockets and bytes (front.py, splice.py), who a caller is (services).
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Final

from portway_runtime.clocks import Monotonic
from portway_runtime.half_open import STALLED_AFTER, HalfOpenConnections
from portway_runtime.rates import ADDRESSES, AddressRate, KeyedRate, TokenBucket, address_prefixes
from portway_runtime.shares import PrefixQueue

from portway_registry.net.connection import Connection, Stage

# Handshakes per second of one port. One takes 0.8 ms of processor time, so that strangers have a third of a core; a
# fleet that starts a thousand clients at once is served within two seconds.
HANDSHAKES_PER_SECOND: Final = 400.0
HANDSHAKE_BURST: Final = 200.0
# Calls whose callers were not identified: health checks, wrong tokens. One costs some 0.2 ms. Of one address (IPv6:
# /64), and of all addresses of its widest prefix (IPv4 /24, IPv6 /48).
ANONYMOUS_PER_SECOND: Final = 5.0
ANONYMOUS_BURST: Final = 50.0
# What a node has of a port at most, in connections without an identified caller and in anonymous calls: it could name
# any address, so that nothing else bounds a node that was broken into.
_NODE_SHARE: Final = 0.5
_NODE_ANONYMOUS: Final = 20.0  # times an address's
_NODES: Final = 1_024
# Seconds. Of two connections whose last calls ended within so long, either may make room first.
_SAME_TIME: Final = 5.0
_PREFIX_SHARE: Final = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """Connections of one port, by how far they have come.

    hellos: those that have not sent a whole ClientHello. strangers: those that have, and none of whose callers was
    identified yet. known: all others.
    """

    hellos: int
    strangers: int
    known: int

    @classmethod
    def of(cls, known: int) -> "Limits":
        """The limits that go with a number of known connections."""
        return cls(hellos=max(4, known // 2), strangers=max(4, known // 4), known=max(4, known))

    @classmethod
    def within(cls, descriptors: int, known: int) -> "Limits":
        """The limits for `known` connections, or for as many as so many descriptors allow."""
        return cls.of(min(known, descriptors * known // cls.of(known).descriptors))

    @property
    def descriptors(self) -> int:
        """Descriptors for this many: one of a connection without a hello; else its own and both ends of gRPC's."""
        return self.hellos + 3 * (self.strangers + self.known)


def share_of_address(limit: int) -> int:
    """Connections that one address may have of `limit`."""
    return max(3, limit // 4)


class Admission:
    """The connections of one port that have sent a ClientHello."""

    def __init__(self, limits: Limits, clock: Monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._turns = _Turns()
        self._handshakes = TokenBucket(HANDSHAKES_PER_SECOND, HANDSHAKE_BURST, clock)
        self._next_turn: asyncio.TimerHandle | None = None
        self._strangers = HalfOpenConnections[Connection](
            limits.strangers, share_of_address(limits.strangers), self._evict, clock, min_age=STALLED_AFTER
        )
        self._of_node: dict[str, HalfOpenConnections[Connection]] = {}  # strangers that a node has passed on
        self._idle = HalfOpenConnections[Connection](
            limits.known, share_of_address(limits.known), self._evict_idle, clock
        )
        self._busy: set[Connection] = set()  # known, with calls in progress when they were to make room
        burst, rate = ANONYMOUS_BURST, ANONYMOUS_PER_SECOND
        self._anonymous = AddressRate(rate, burst, clock)
        self._anonymous_in_prefix: KeyedRate[str | bytes] = KeyedRate(
            rate * _PREFIX_SHARE, burst * _PREFIX_SHARE, clock, ADDRESSES
        )
        self._anonymous_of_node: KeyedRate[str] = KeyedRate(
            rate * _NODE_ANONYMOUS, burst * _NODE_ANONYMOUS, clock, _NODES
        )
        self.ended: Counter[str] = Counter()  # connections that were ended here, by reason

    def __len__(self) -> int:
        return len(self._strangers) + len(self._idle) + len(self._busy)

    @property
    def strangers(self) -> int:
        """Connections of which no caller is identified yet."""
        return len(self._strangers)

    def counts(self) -> dict[str, int]:
        """Connections by how far they have come."""
        return {"strangers": self.strangers, "known": len(self._idle) + len(self._busy)}

    def arrived(self, connection: Connection) -> None:
        """A connection has sent its ClientHello. It is opened in its turn, or ended."""
        if not self._add_stranger(connection):
            self._end(connection, "no room")
            return
        self._turns.push(connection)
        self._take_turns()

    def identified(self, connection: Connection) -> None:
        """The caller of a call in progress is known."""
        if connection.stage is not Stage.STRANGER:
            return
        self._discard_stranger(connection)
        connection.stage = Stage.KNOWN
        self._busy.add(connection)
        while len(self._idle) + len(self._busy) > self._limits.known:
            if not self._idle.evict_for(connection.peer.host):
                self._end(connection, "no room")

    def call_began(self, connection: Connection) -> None:
        # It stays where it is in `_idle`, as most calls take less time than two changes of that set.
        connection.calls += 1

    def call_ended(self, connection: Connection, *, identified: bool) -> None:
        """A call has ended; its connection is the newest of those that are idle, if it was the last one."""
        connection.calls -= 1
        if not identified:
            self._count_anonymous(connection)
        if connection.calls or connection.stage is not Stage.KNOWN:
            return
        if connection in self._busy:
            self._busy.discard(connection)
        elif self._clock() - connection.used < _SAME_TIME:
            return
        else:
            self._idle.discard(connection)
        connection.used = self._clock()
        if not self._idle.add(connection, connection.peer.host):
            self._end(connection, "no room")

    def gone(self, connection: Connection) -> None:
        """A connection has ended, for whatever reason. May be called again."""
        connection.stage = Stage.CLOSED
        self._turns.discard(connection)
        self._discard_stranger(connection)
        self._idle.discard(connection)
        self._busy.discard(connection)

    def close(self) -> None:
        """Open no further connection."""
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None

    def _add_stranger(self, connection: Connection) -> bool:
        """Add it to the strangers, if there is room for it, and for one more of the node that has passed it on."""
        host, node = connection.peer.host, connection.ingress
        if node:
            of_node = self._of_node.get(node)
            if of_node is None:
                most = max(3, int(self._limits.strangers * _NODE_SHARE))
                of_node = self._of_node[node] = HalfOpenConnections(
                    most, share_of_address(self._limits.strangers), self._evict, self._clock, min_age=STALLED_AFTER
                )
            if not of_node.add(connection, host):
                return False
        if self._strangers.add(connection, host):
            return True
        self._discard_stranger(connection)
        return False

    def _discard_stranger(self, connection: Connection) -> None:
        self._strangers.discard(connection)
        of_node = self._of_node.get(connection.ingress)
        if of_node is not None:
            of_node.discard(connection)
            if not of_node:
                del self._of_node[connection.ingress]

    def _take_turns(self) -> None:
        if self._next_turn is not None:
            return
        while self._turns and self._handshakes.take():
            connection = self._turns.pop()
            connection.stage = Stage.STRANGER
            connection.sockets.open()
        if self._turns:
            self._next_turn = asyncio.get_running_loop().call_later(self._handshakes.wait, self._turn)

    def _turn(self) -> None:
        self._next_turn = None
        self._take_turns()

    def _count_anonymous(self, connection: Connection) -> None:
        """Charge the address with a call. Above its budget the connection gets this answer and no other one."""
        host, node = connection.peer.host, connection.ingress
        allowed = self._anonymous.take(host) and self._anonymous_in_prefix.take(address_prefixes(host)[0])
        if allowed and (not node or self._anonymous_of_node.take(node)):
            return
        if connection.let_go:
            self._end(connection, "anonymous calls")
        else:
            connection.let_go = True
            connection.sockets.let_go()

    def _evict_idle(self, connection: Connection) -> None:
        if connection.calls:
            self._busy.add(connection)
        else:
            self._end(connection, "made room")

    def _evict(self, connection: Connection) -> None:
        self._end(connection, "made room")

    def _end(self, connection: Connection, reason: str) -> None:
        if connection.stage is not Stage.CLOSED:
            self.ended[reason] += 1
            connection.sockets.close()


class _Turns:
    """Connections that wait for their turn. Nodes that have passed some on take turns, and all that came by themselves
    are as one more. Within each, prefixes of addresses do."""

    def __init__(self) -> None:
        self._queues: dict[str, PrefixQueue[Connection]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def push(self, connection: Connection) -> None:
        self._queues.setdefault(connection.ingress, PrefixQueue()).push(connection, connection.peer.host)

    def pop(self) -> Connection:
        """Remove the connection whose turn it is. There is one."""
        ingress = next(iter(self._queues))
        queue = self._queues.pop(ingress)
        connection = queue.pop()
        if queue:
            self._queues[ingress] = queue  # the last in the next round
        return connection

    def discard(self, connection: Connection) -> None:
        queue = self._queues.get(connection.ingress)
        if queue is not None:
            queue.discard(connection)
            if not queue:
                del self._queues[connection.ingress]
