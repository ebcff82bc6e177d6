"""SecondOpinions: whether a node's refusal of a tunnel is final (WIRE.md §8.5).

A refusal that proves nothing is one node's word, which may be hostile or wrong. It is final when a registry or a second
node says the same, or when a registry has never named another node: one that takes no clients now may again. Not here:
refusals that pass by themselves, and claims that show another owner (tunnel_set.py); a session that is refused as a
whole (search.py).
"""

import asyncio
from typing import Final

from portway_proto.wire.labels import Label
from portway_runtime.bounded import BoundedMap
from portway_runtime.clocks import Monotonic, monotonic
from portway_runtime.tasks import Tasks

from portway.engine.directory import Directory, Node
from portway.engine.failures import Failure
from portway.errors import AuthError, Error, QuotaError

# Seconds. Refusals of two nodes count together within this time, which is enough to attach to the second one.
COUNTS_FOR: Final = 600.0
# Seconds after which a registry that has room is asked again: nodes announce their tunnels within milliseconds, and the
# ones before may have been opened just now.
QUOTA_HEARD_AFTER: Final = 0.5
# Refusals that are remembered: one of each tunnel that a session can have.
_REMEMBERED: Final = 1000


class SecondOpinions:
    """Made and used on the engine's loop, by one link."""

    def __init__(self, directory: Directory, tasks: Tasks, clock: Monotonic = monotonic) -> None:
        self._directory = directory
        self._tasks = tasks
        self._clock = clock
        self._refused: BoundedMap[tuple[Label, int], tuple[str, float]] = BoundedMap(_REMEMBERED)  # node, and when
        self._asking: dict[int, asyncio.Task[Error | None]] = {}  # by the number of tunnels that are to be opened

    async def another_may_differ(self, label: Label, node: Node, failure: Failure) -> bool:
        """A node refuses this tunnel. Returns whether to go to another node; if not, none is there now, or none is
        known and no registry answers. Raises Error when the refusal is final."""
        first, at = self._refused.get((label, failure.code), (node.name, 0.0))
        if first != node.name and self._clock() - at <= COUNTS_FOR:
            raise failure.error()
        self._refused[label, failure.code] = (node.name, self._clock())
        error = await self.ask_registry(new_tunnels=int(failure.over_quota))
        if failure.over_quota and error is None:
            await asyncio.sleep(QUOTA_HEARD_AFTER)
            error = await self.ask_registry(new_tunnels=1)
        # A registry also says RESOURCE_EXHAUSTED when it is asked too often.
        if isinstance(error, AuthError) or (isinstance(error, QuotaError) and failure.over_quota):
            raise error
        located = self._directory.located
        others = located is not None and any(one.name != node.name for one in located.nodes)
        if error is None and not others and not self._directory.has_named_another(node.name):
            raise failure.error()
        return others

    async def ask_registry(self, new_tunnels: int = 0) -> Error | None:
        """Locate; returns the error if no answer came, and QuotaError if there is no room for `new_tunnels`. Tunnels
        that are refused at the same time ask once."""
        asking = self._asking.get(new_tunnels)
        if asking is None or asking.done():
            asking = self._asking[new_tunnels] = self._tasks.spawn(self._locate(new_tunnels), name="ask a registry")
        return await asyncio.shield(asking)

    async def _locate(self, new_tunnels: int) -> Error | None:
        try:
            await self._directory.locate(new_tunnels)
        except Error as error:
            return error
        return None
