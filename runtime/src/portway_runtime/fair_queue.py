"""A queue in which senders take turns: many items of one keep no other waiting."""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items by sender; any hashable value is a sender. Those of one come out in the order in which they came."""

    def __init__(self) -> None:
        # By sender; the one whose turn it is comes first.
        self._waiting: OrderedDict[Hashable, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        """Items that wait."""
        return sum(map(len, self._waiting.values()))

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, sender: Hashable, item: T) -> None:
        self._waiting.setdefault(sender, deque()).append(item)

    def take(self, most: int) -> list[T]:
        """The next ones, one of each sender in turn."""
        taken: list[T] = []
        while self._waiting and len(taken) < most:
            sender, items = self._waiting.popitem(last=False)
            taken.append(items.popleft())
            if items:
                self._waiting[sender] = items  # behind the others
        return taken
