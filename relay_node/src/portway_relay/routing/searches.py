"""Labels whose node is not reached: each is asked for again and again while visitors wait for its client.

Here: how often, and who is woken. All visitors of a label share its questions, however many they are and whenever they
came. Not here: how a question is asked and what its answer means (lookup.py), how many visitors may wait (visits.py).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from portway_runtime.tasks import Tasks

T = TypeVar("T")

# Seconds before each question; the last one repeats. The client of a node that was killed has its tunnels elsewhere
# within a second, that of a silent node notices after 5 to 11 s.
_PAUSES: Final = (0.0, 0.05, 0.1, 0.2, 0.4, 0.5)


@dataclass(slots=True)
class _Search:
    """One label: visitors that wait, questions so far, and the question that is in progress or about to be asked."""

    waiting: int = 0
    asked: int = 0
    question: asyncio.Task[None] | None = None


class Searches:
    """The labels that visitors wait for."""

    def __init__(self, ask: Callable[[str, str], Awaitable[object]], tasks: Tasks) -> None:
        """`ask` asks everybody for a label and the region in its name. The questions are tasks of `tasks`."""
        self._ask = ask
        self._tasks = tasks
        self._searches: dict[str, _Search] = {}

    def __len__(self) -> int:
        """Labels that are searched for."""
        return len(self._searches)

    async def wait(self, label: str, region: str, found: Callable[[], T | None], within: float) -> T | None:
        """Ask until `found` answers something: it is called now and after each question. None after `within` seconds.
        Cancelled, it leaves a question that others may wait for running."""
        search = self._searches.setdefault(label, _Search())
        search.waiting += 1
        try:
            async with asyncio.timeout(within):
                while (answer := found()) is None:
                    if search.question is None or search.question.done():
                        search.question = self._tasks.spawn(
                            self._ask_later(search, label, region), name="search for a label"
                        )
                    await asyncio.shield(search.question)
        except TimeoutError:
            return None
        finally:
            search.waiting -= 1
            if not search.waiting:
                del self._searches[label]
        return answer

    async def _ask_later(self, search: _Search, label: str, region: str) -> None:
        await asyncio.sleep(_PAUSES[min(search.asked, len(_PAUSES) - 1)])
        search.asked += 1
        await self._ask(label, region)
