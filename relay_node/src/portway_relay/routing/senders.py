"""Who said something about labels, and a memory in which each sender can push out only what it said itself.

Not here: what was said (heard.py, releases.py).
"""

from collections.abc import Callable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar

from portway_runtime.bounded import BoundedMap

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
        self._kinds = {kind: _SendersOfKind[K, V](*share, evicted) for kind, share in _SHARES.items()}

    def put(self, sender: Sender, key: K, value: V) -> None:
        """Remember the sender's newest word on a key."""
        self._kinds[sender.kind].put(sender, key, value)

    def get(self, sender: Sender, key: K) -> V | None:
        """The sender's word on a key."""
        return self._kinds[sender.kind].get(sender, key)

    def all(self, key: K) -> Iterator[V]:
        """What all senders said about a key."""
        for kind in self._kinds:
            yield from self.of_kind(kind, key)

    def of_kind(self, kind: str, key: K) -> Iterator[V]:
        """What the senders of one kind said about a key."""
        return self._kinds[kind].all(key)

    def discard(self, sender: Sender, key: K) -> None:
        """Forget the sender's word on a key."""
        self._kinds[sender.kind].discard(sender, key)


class _SendersOfKind(Generic[K, V]):
    """What the senders of one kind said: at most `share` keys of each of `senders`. Of a sender the oldest word is
    evicted first; of the senders, with all its words, the one that has said nothing for the longest time."""

    def __init__(self, share: int, senders: int, evicted: Callable[[Sender, K, V], object] | None) -> None:
        self._share = share
        self._by_sender: BoundedMap[Sender, BoundedMap[K, V]] = BoundedMap(senders, self._evict_sender)
        self._senders: dict[K, dict[Sender, None]] = {}  # of each key
        self._evicted = evicted

    def put(self, sender: Sender, key: K, value: V) -> None:
        said = self._by_sender.get(sender)
        if said is None:
            said = BoundedMap(self._share, lambda key, value: self._evict(sender, key, value))
        self._by_sender[sender] = said
        self._senders.setdefault(key, {})[sender] = None
        said[key] = value

    def get(self, sender: Sender, key: K) -> V | None:
        said = self._by_sender.get(sender)
        return None if said is None else said.get(key)

    def all(self, key: K) -> Iterator[V]:
        for sender in self._senders.get(key, ()):
            yield self._by_sender[sender][key]

    def discard(self, sender: Sender, key: K) -> None:
        said = self._by_sender.get(sender)
        if said is not None and key in said:
            del said[key]
            self._unlist(sender, key)

    def _evict_sender(self, sender: Sender, said: BoundedMap[K, V]) -> None:
        for key, value in said.items():
            self._evict(sender, key, value)

    def _evict(self, sender: Sender, key: K, value: V) -> None:
        self._unlist(sender, key)
        if self._evicted is not None:
            self._evicted(sender, key, value)

    def _unlist(self, sender: Sender, key: K) -> None:
        senders = self._senders[key]
        del senders[sender]
        if not senders:
            del self._senders[key]
