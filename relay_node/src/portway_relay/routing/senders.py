"""Who said something about labels, and a memory in which each sender can push out only what it said itself.

Not here: what was said (heard.py, releases.py).
"""

from collections.abc import Callable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar

from portway_runtime.bounded import Shares

K = TypeVar("K")
V = TypeVar("V")

NODE: Final = "node"
TOKEN: Final = "token"  # noqa: S105


class Sender(NamedTuple):
    """`kind` is NODE with the node's name, TOKEN with the id of a client's token, or a registry's."""

    kind: str
    name: str


REGISTRY: Final = Sender("registry", "")

# By kind: keys of one sender, and senders. A node's share is twice the tunnels that one holds by default in 10,000
# sessions; a registry's is more names than a node sees in an hour. What was pushed out is asked for again.
_SHARES: Final = {NODE: (20_000, 2_000), TOKEN: (10_000, 10_000), REGISTRY.kind: (100_000, 1)}


class BySender(Generic[K, V]):
    """What each sender said about each key."""

    def __init__(self, evicted: Callable[[Sender, K, V], object] | None = None) -> None:
        """`evicted` is called with each entry that made room for another one."""
        self._kinds = {kind: Shares[Sender, K, V](*share, evicted) for kind, share in _SHARES.items()}

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def put(self, sender: Sender, key: K, value: V) -> None:
        self._kinds[sender.kind].put(sender, key, value)

    def get(self, sender: Sender, key: K) -> V | None:
        return self._kinds[sender.kind].get(sender, key)

    def all(self, key: K) -> Iterator[V]:
        """What all senders said about a key."""
        for kind in self._kinds:
            yield from self.of_kind(kind, key)

    def of_kind(self, kind: str, key: K) -> Iterator[V]:
        """What the senders of one kind said about a key."""
        for _, value in self._kinds[kind].all(key):
            yield value

    def discard(self, sender: Sender, key: K) -> None:
        self._kinds[sender.kind].discard(sender, key)
