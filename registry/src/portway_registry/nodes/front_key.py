"""The secret that nodes' keys for PROXY headers are made of: making it, replacing it by time and by operators, and each
node's key.

Here: all changes of the record. Replicas need not agree on which of them changes it: each change is a compare-and-swap.
Not here: checking headers (portway_registry.net.node_headers), telling nodes (registry_fronts.py).
"""

import hashlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Final

import msgspec
from portway_runtime.node_headers import KEY_SIZE, node_key

from portway_registry.errors import NotYet, StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.lookout import Lookout
from portway_registry.state.records import FrontKeyRecord, Order, encode
from portway_registry.state.views import Item, Views
from portway_registry.store.contract import ABSENT, Store
from portway_registry.store.update import TRIES

logger = logging.getLogger(__name__)

# How long a secret is in use. Headers by it are accepted for as long again.
LIFE_MS: Final = 24 * 3_600_000
# How long every replica has to hear of the next one before a node writes headers by it.
ANNOUNCED_MS: Final = 600_000
# How long the one before is kept from being replaced: nodes are told of the one in use within a second, and a header is
# believed for a minute.
SETTLED_MS: Final = 120_000
_CHECK_EVERY: Final = 60.0  # seconds
# Seconds in which replicas that answer have said that they know the next one.
ANSWERED_WITHIN: Final = 2.0
_MOST_NAMED: Final = 100
_ID_CONTEXT: Final = b"portway-front-key-id-1\0"


class FrontKeyState(Enum):
    """What a secret is used for."""

    ANNOUNCED = "announced"
    IN_USE = "in use"
    ACCEPTED = "accepted"


@dataclass(frozen=True, slots=True)
class FrontKeyStatus:
    """A secret as operators see it; times in milliseconds since the Unix epoch, 0 for none.

    used_from_ms: of an announced one at the latest. accepted_until_ms: of one that was replaced.
    unaware_replicas: those that live and do not know it.
    """

    id: str
    state: FrontKeyState
    used_from_ms: int = 0
    accepted_until_ms: int = 0
    unaware_replicas: tuple[str, ...] = ()


def known_keys(record: FrontKeyRecord | None) -> tuple[str, ...]:
    """The ids of the secrets in a record, sorted."""
    return () if record is None else tuple(sorted(_id(secret) for secret in (record.key, record.other) if secret))


class FrontKey:
    """The cluster's secret, rotated by time and by operators."""

    def __init__(
        self,
        store: Store,
        views: Views,
        audit: Audit,
        now_ms: Callable[[], int],
        *,
        patience: float = ANSWERED_WITHIN,
    ) -> None:
        """patience: seconds for which `rotate` waits for the next one to be used."""
        self._store = store
        self._views = views
        self._audit = audit
        self._patience = patience
        self._now_ms = now_ms
        self._lookout = Lookout(self.look, every=_CHECK_EVERY, trouble="the key of PROXY headers is not rotated")

    def of_node(self, node: str) -> bytes:
        """The key that a node writes headers with now; empty while there is none."""
        return next(iter(self.accepted(node)), b"")

    def accepted(self, node: str) -> tuple[bytes, ...]:
        """The keys by which headers of this node are believed, the one in use first: none of a node that was removed,
        and only those of the node that the name was last given to."""
        record = self._record()
        order = self._views.orders.get(node)
        if record is None or (order is not None and order.order is Order.REMOVE):
            return ()
        identity = self._views.identities.get(node)
        since = 0 if identity is None else identity.joined_at_ms
        return tuple(node_key(secret, node, since) for secret in (record.key, record.other) if secret)

    def all(self) -> list[FrontKeyStatus]:
        """The one in use first."""
        record = self._record()
        if record is None:
            return []
        in_use = FrontKeyStatus(_id(record.key), FrontKeyState.IN_USE, record.changed_at_ms)
        if not record.other:
            return [in_use]
        other = _id(record.other)
        if not record.other_is_next:
            until = record.changed_at_ms + LIFE_MS
            return [in_use, FrontKeyStatus(other, FrontKeyState.ACCEPTED, accepted_until_ms=until)]
        # When the one in use came into use is not in the record any more.
        in_use = FrontKeyStatus(in_use.id, FrontKeyState.IN_USE)
        latest, unaware = record.changed_at_ms + ANNOUNCED_MS, self._unaware(other)
        return [in_use, FrontKeyStatus(other, FrontKeyState.ANNOUNCED, latest, unaware_replicas=unaware)]

    async def rotate(self, *, force: bool, by: str) -> FrontKeyStatus:
        """Make the next one; one that is announced already is taken. It comes into use once every replica that lives
        knows it, after ANNOUNCED_MS in any case; this waits for it for ANSWERED_WITHIN. With `force` another one is in
        use at once, and headers by no other one are accepted.

        Raises NotYet shortly after one has come into use, and StoreUnavailable.
        """
        for _ in range(TRIES):
            now, item = self._now_ms(), self._item()
            record = None if item is None else item.value
            if record is None or force:
                after = FrontKeyRecord(_secret(), now)
            elif record.other_is_next:
                after = msgspec.structs.replace(record, early=True)
            elif record.other and now < record.changed_at_ms + SETTLED_MS:
                raise NotYet(
                    f"the key of PROXY headers was replaced a moment ago, and headers by the one before are on their "
                    f"way until {_utc(record.changed_at_ms + SETTLED_MS)}: repeat it then. --force replaces it now, "
                    "and connections that nodes pass on meanwhile may be refused"
                )
            else:
                after = msgspec.structs.replace(
                    record, changed_at_ms=now, other=_secret(), other_is_next=True, early=True
                )
            modified = ABSENT if item is None else item.modified
            if after == record or await self._store.put(keys.FRONT_KEY, encode(after), expected=modified):
                if after != record:
                    await self._tell(after, force=force, by=by)
                return await self._used(_id(after.other or after.key))
            await self._views.front_key.caught_up("")
        raise StoreUnavailable("the key of PROXY headers changed at each try to rotate it")

    async def run(self) -> None:
        """Make it, and replace it when that is due, for ever; during an outage of the store as soon as it is over."""
        views = self._views
        subscribed = [views.front_key.subscribe(self._lookout.notice), views.replicas.subscribe(self._replica_noticed)]
        await self._lookout.run(subscribed)

    async def look(self) -> None:
        """Make what is missing or due now. Raises StoreUnavailable."""
        now, item = self._now_ms(), self._item()
        if item is None:
            if await self._store.put(keys.FRONT_KEY, encode(FrontKeyRecord(_secret(), now)), expected=ABSENT):
                logger.info("key of PROXY headers made")
            return
        record, age = item.value, now - item.value.changed_at_ms
        if record.other_is_next and (age >= ANNOUNCED_MS or (record.early and not self._unaware(_id(record.other)))):
            after = FrontKeyRecord(record.other, now, record.key)
            news = "key of PROXY headers replaced"
        elif not record.other_is_next and age >= LIFE_MS:
            after = msgspec.structs.replace(record, changed_at_ms=now, other=_secret(), other_is_next=True)
            news = "next key of PROXY headers made"
        else:
            return
        if await self._store.put(keys.FRONT_KEY, encode(after), expected=item.modified):
            logger.info(news)

    def _item(self) -> Item[FrontKeyRecord] | None:
        return self._views.front_key.items.get("")

    def _record(self) -> FrontKeyRecord | None:
        item = self._item()
        return None if item is None else item.value

    def _unaware(self, key: str) -> tuple[str, ...]:
        """The replicas that live and do not know it; those of an earlier release never say so."""
        found = sorted(one.id for one in self._views.replicas.values() if key not in one.front_keys)
        return tuple(found[:_MOST_NAMED])

    async def _tell(self, made: FrontKeyRecord, *, force: bool, by: str) -> None:
        key = _id(made.other or made.key)
        logger.info("key of PROXY headers replaced" if force else "next key of PROXY headers made", extra={"by": by})
        await self._audit.add_done(by, "front-key.rotate-by-force" if force else "front-key.rotate", key)

    async def _used(self, key: str) -> FrontKeyStatus:
        """Wait until a secret that was announced is in use, or for as long as that is waited for."""
        views = self._views
        await views.front_key.caught_up("")

        def is_used() -> bool:
            return self._named(key).state is not FrontKeyState.ANNOUNCED

        await self._lookout.until(is_used, (views.front_key, views.replicas), self._patience)
        return self._named(key)

    def _named(self, key: str) -> FrontKeyStatus:
        found = next((one for one in self.all() if one.id == key), None)
        if found is None:
            raise StoreUnavailable("the key of PROXY headers that was made is gone")
        return found

    def _replica_noticed(self, *_: object) -> None:
        """What replicas know matters while one is announced."""
        record = self._record()
        if record is not None and record.early:
            self._lookout.notice()


def _secret() -> bytes:
    return secrets.token_bytes(KEY_SIZE)


def _id(secret: bytes) -> str:
    return hashlib.sha256(_ID_CONTEXT + secret).hexdigest()[:16]


def _utc(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%H:%M:%S} UTC"
