"""Quotas: how many tunnels of a tenant, and of each of its tokens, are open in the cluster, and which are too many.

Every replica finds the same tunnels over a quota: the newest by the store's own order, in which a label that moves
keeps its age. Not here: the limits (state/tunnel_limits.py), who ends what is over them (nodes/).
"""

import asyncio
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from portway_proto.v1.mesh_pb2 import EVICTION_REASON_QUOTA, Eviction
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_runtime.clocks import Monotonic, monotonic

from portway_registry.errors import QuotaFull, StoreUnavailable
from portway_registry.state.records import TokenRecord
from portway_registry.state.tunnel_limits import TunnelLimits
from portway_registry.state.views import Item, TunnelView
from portway_registry.state.waiting import until
from portway_registry.store.contract import Revision

# Seconds that a client waits for a place: that of a program which is started again is freed while its node, the
# registry and the store tell each other, one after another.
_PATIENCE: Final = 1.0
_ANSWER_TIME: Final = 1.0  # seconds for the store's answer, without which it counts as away
# Clients of one tenant that wait at once; each looks at every change of a tunnel. Further ones are told at once.
_MOST_WAITING: Final = 16
# Seconds for which the store counts as reachable after it answered: a token whose quota is full costs one read in each.
_STORE_ANSWERED: Final = 1.0


@dataclass(frozen=True, slots=True)
class Limit:
    """The largest number of tunnels of a tenant, or of one token alone (`of_token`); `name` is the one's or other's."""

    name: str
    of_token: bool
    max_tunnels: int

    def eviction(self, tunnel: TunnelInfo) -> Eviction:
        """What the home node of a tunnel over this limit is told."""
        return Eviction(
            label=tunnel.label,
            epoch=tunnel.epoch,
            reason=EVICTION_REASON_QUOTA,
            max_tunnels=self.max_tunnels,
            of_token=self.of_token,
        )


class Quota:
    """Counts tunnels by tenant and by token, as far as this replica has seen."""

    def __init__(self, limits: TunnelLimits, tunnels: TunnelView, clock: Monotonic = monotonic) -> None:
        self.limits = limits
        self._tunnels = tunnels
        self._clock = clock
        self._deleted: dict[str, Revision] = {}  # by label: deleted from the store, and possibly still in the view
        self._store_answered = -_STORE_ANSWERED
        self._waiting: Counter[str] = Counter()  # clients by tenant

    def limits_on(self, tenant: str, token_id: str) -> list[Limit]:
        """The tenant's limit, and the token's where it has one of its own."""
        limits = [Limit(tenant, False, self.limits.of_tenant(tenant))]
        if own := self.limits.own_of_token(token_id):
            limits.append(Limit(token_id, True, own))
        return limits

    def free(self, limit: Limit) -> int:
        """The number of further tunnels that may be open now."""
        held = self._held(limit)
        gone = sum(self._deleted.get(label) == item.modified for label, item in held.items()) if self._deleted else 0
        return max(0, limit.max_tunnels - len(held) + gone)

    def deleted(self, tunnel: Item[TunnelInfo]) -> None:
        """The tunnel was deleted from the store: its place is free, though the view may still show it."""
        shown = self._tunnels.items
        self._deleted = {
            label: modified
            for label, modified in self._deleted.items()
            if (item := shown.get(label)) is not None and item.modified == modified
        }
        self._deleted[tunnel.name] = tunnel.modified

    def excess(self, tenant: str, token_id: str) -> Iterator[tuple[Item[TunnelInfo], Limit]]:
        """The tunnels over the limits, each with the one that it is over: when replicas each gave the last free place,
        when a limit was lowered."""
        for limit in self.limits_on(tenant, token_id):
            held = self._held(limit)
            over = len(held) - limit.max_tunnels
            if over > 0:
                for item in heapq.nlargest(over, held.values(), key=lambda item: (item.created, item.name)):
                    yield item, limit

    async def demand_room(self, token: TokenRecord, number: int) -> None:
        """Raise QuotaFull when there is no room for this number of further tunnels with `token`.

        A place that is freed within a second is waited for. While the store cannot be reached the view shows tunnels
        that were closed meanwhile, and nobody is refused for them.
        """
        full = self._full(token, number)
        if full is not None and await self._store_answers(full):
            full = await self._full_after_waiting(token, number)
            if full is not None:
                raise _refusal(full, number)

    async def _full_after_waiting(self, token: TokenRecord, number: int) -> Limit | None:
        if self._waiting[token.tenant] >= _MOST_WAITING:
            return self._full(token, number)
        self._waiting[token.tenant] += 1
        try:
            await until(lambda: self._full(token, number) is None, [self._tunnels], _PATIENCE)
        finally:
            self._waiting[token.tenant] -= 1
            if not self._waiting[token.tenant]:
                del self._waiting[token.tenant]
        return self._full(token, number)

    def _full(self, token: TokenRecord, number: int) -> Limit | None:
        limits = self.limits_on(token.tenant, token.id)
        return next((limit for limit in limits if self.free(limit) < number), None)

    async def _store_answers(self, full: Limit) -> bool:
        """Whether the store can be reached: it has answered a moment ago, or does now."""
        now = self._clock()
        held = next(iter(self._held(full)), None)
        if held is not None and now - self._store_answered >= _STORE_ANSWERED:
            try:
                async with asyncio.timeout(_ANSWER_TIME):
                    await self._tunnels.caught_up(held)
            except (StoreUnavailable, TimeoutError):
                return False
            self._store_answered = now
        return True

    def _held(self, limit: Limit) -> Mapping[str, Item[TunnelInfo]]:
        return self._tunnels.of_token(limit.name) if limit.of_token else self._tunnels.of_tenant(limit.name)


class Room:
    """What is left of the quotas while one batch is written; the places that it takes itself are counted."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._left: dict[Limit, int] = {}
        self._taken: set[str] = set()

    def take(self, tunnel: TunnelInfo, replaced: TunnelInfo | None) -> Limit | None:
        """Take a place for a tunnel; returns the limit that leaves none. `replaced` gives its own place up.

        A label that has its place keeps it, however often it is written.
        """
        if tunnel.label in self._taken:
            return None
        limits = [
            limit
            for limit in self._quota.limits_on(tunnel.tenant, tunnel.token_id)
            if replaced is None or limit.name != (replaced.token_id if limit.of_token else replaced.tenant)
        ]
        for limit in limits:
            if limit not in self._left:  # counted once for a batch: while deletions are on their way it takes longer
                self._left[limit] = self._quota.free(limit)
            if self._left[limit] <= 0:
                return limit
        for limit in limits:
            self._left[limit] -= 1
        self._taken.add(tunnel.label)
        return None


def _refusal(full: Limit, number: int) -> QuotaFull:
    if full.of_token:
        whose, advice = "this token", "use another token"
    else:
        whose = f"tenant {full.name}"
        advice = f"ask an admin for more (`portway-admin tenant set-quota {full.name} NUMBER`)"
    wanted = "" if number == 1 else f", and {number} more are asked for"
    return QuotaFull(
        f"{whose} may have {full.max_tunnels} tunnels open at once and has them{wanted}: close one, or {advice}"
    )
