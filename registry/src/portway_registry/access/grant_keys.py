"""The keys that sign grants: making the next one, when it begins to sign, when an old one may go.

Here: all changes of these records, by time and by operators. Not here: signing (grants.py), how nodes learn the public
keys. Replicas need not agree on which of them changes a key: each change is a compare-and-swap.

A key signs once every node and every replica that lives knows it. That was asked for (`early`); a key that is due by
time waits for a day instead, because a node may have been cut off from every registry for that long.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from portway_registry.access.grants import HONOURED_MS, signing_key
from portway_registry.errors import NotFound, NotYet, StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.lookout import Lookout
from portway_registry.state.records import GrantKeyRecord, Order, encode
from portway_registry.state.views import Item, View, Views
from portway_registry.store.contract import ABSENT, Store
from portway_registry.store.update import TRIES

logger = logging.getLogger(__name__)

_HOUR_MS: Final = 3_600_000
# How long a key signs.
_KEY_LIFE_MS: Final = 30 * 24 * _HOUR_MS
# A node that has been cut off from every registry for a day may not know a younger key yet.
PUBLISHED_BEFORE_USE_MS: Final = 24 * _HOUR_MS
# As long as a grant of the key may be honoured, and an hour more for clocks that differ.
NEEDED_AFTER_USE_MS: Final = HONOURED_MS + _HOUR_MS
# Seconds. A change of the keys, the nodes or the replicas is looked at when it comes; this is for the time of day.
_CHECK_EVERY: Final = 3_600.0
# Seconds in which nodes and replicas that answer have said that they know a key.
ANSWERED_WITHIN: Final = 2.0
# Keys at once. Nodes name at most 32; a key that was replaced is needed for 26 hours.
_MOST_KEYS: Final = 16
_MOST_NAMED: Final = 100


class KeyState(Enum):
    """What a key is used for."""

    ANNOUNCED = "announced"
    SIGNING = "signing"
    VERIFYING = "verifying"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """A key as operators see it; times in milliseconds since the Unix epoch, 0 for none.

    signs_from_ms: of an announced key at the latest. used_until_ms: until when grants that it signed may be honoured; 0
    while it signs, and when it has signed nothing.
    unaware_nodes, unaware_replicas: those that live and do not know it.
    """

    id: str
    state: KeyState
    made_at_ms: int = 0
    signs_from_ms: int = 0
    used_until_ms: int = 0
    early: bool = False
    unaware_nodes: tuple[str, ...] = ()
    unaware_replicas: tuple[str, ...] = ()


def new_key(kid: str, *, active_from_ms: int, made_at_ms: int = 0, early: bool = False) -> GrantKeyRecord:
    """A random Ed25519 key."""
    private = Ed25519PrivateKey.generate()
    return GrantKeyRecord(
        kid=kid,
        private_key=private.private_bytes_raw(),
        public_key=private.public_key().public_bytes_raw(),
        active_from_ms=active_from_ms,
        made_at_ms=made_at_ms,
        early=early,
    )


async def make_first_key(store: Store, *, now_ms: int) -> None:
    """Create the cluster's first key, unless there is one. Raises StoreUnavailable."""
    if not (await store.list(keys.GRANT_KEYS)).entries:
        first = new_key("1", active_from_ms=now_ms, made_at_ms=now_ms)
        await store.put(keys.grant_key(first.kid), encode(first), expected=ABSENT)


class GrantKeys:
    """The cluster's grant keys, rotated by time and by operators."""

    def __init__(
        self,
        store: Store,
        views: Views,
        audit: Audit,
        now_ms: Callable[[], int],
        *,
        patience: float = ANSWERED_WITHIN,
    ) -> None:
        """patience: seconds for which `rotate` waits for the new key to sign."""
        self._store = store
        self._views = views
        self._known = views.grant_keys
        self._audit = audit
        self._now_ms = now_ms
        self._patience = patience
        self._lookout = Lookout(self.look, every=_CHECK_EVERY, trouble="grant keys not rotated")
        self._highest = 0  # number of a key that there was: another key never has its id

    def all(self) -> dict[str, KeyStatus]:
        """Every key by a sort key: the oldest first, those that cannot be read at the end."""
        found = {f"{item.value.active_from_ms:013d}-{item.name}": self._status(item) for item in self._sorted()}
        for name in self._names() - self._known.items.keys():
            found[f"unreadable-{name}"] = KeyStatus(name, KeyState.UNREADABLE)
        return found

    async def rotate(self, *, by: str) -> KeyStatus:
        """Make the next key; one that is announced already is taken, and begins to sign as early as it can.

        It signs when every node and replica that lives knows it, after PUBLISHED_BEFORE_USE_MS in any case; this
        returns then, and at the latest when those that answer have answered. May be called again. `by` is the
        operator's token id. Raises NotYet with too many keys, StoreUnavailable.
        """
        for _ in range(TRIES):
            announced = [item for item in self._sorted() if self._status(item).state is KeyState.ANNOUNCED]
            if announced:
                item = announced[-1]
                record = msgspec.structs.replace(item.value, early=True)
                if item.value.early or await self._store.put(
                    keys.grant_key(item.name), encode(record), expected=item.modified
                ):
                    return await self._rotated(item.name, by, told=not item.value.early)
            else:
                if len(self._names()) >= _MOST_KEYS:
                    raise NotYet(
                        f"there are {_MOST_KEYS} grant keys, as many as there may be: each goes 26 hours after it was "
                        "replaced (`portway-admin grant-key list`)"
                    )
                now = self._now_ms()
                kid = self._next_kid()
                starts = now + PUBLISHED_BEFORE_USE_MS if self._known.items else now
                if await self._make(new_key(kid, active_from_ms=starts, made_at_ms=now, early=True)):
                    return await self._rotated(kid, by, told=True)
            await self._known.caught_up(self._next_kid() if not announced else announced[-1].name)
        raise StoreUnavailable("the grant keys changed at each try to rotate them")

    async def retire(self, kid: str, *, force: bool, by: str) -> KeyStatus:
        """Delete a key; returns what it was. With `force` also one that signs, or whose grants may be honoured; a key
        that signs is replaced by another first, which signs at once.

        Raises NotFound, NotYet, StoreUnavailable.
        """
        for _ in range(TRIES):
            entry = await self._store.get(keys.grant_key(kid))
            if entry is None:
                raise NotFound(f"no grant key {kid!r} is known: see `portway-admin grant-key list`")
            await self._known.caught_up(kid)
            item = self._known.items.get(kid)
            status = KeyStatus(kid, KeyState.UNREADABLE) if item is None else self._status(item)
            if not force:
                self._demand_unused(status)
            elif status.state is KeyState.SIGNING:
                await self._replace()
            if await self._store.delete(entry.key, expected=entry.modified):
                await self._known.caught_up_if_possible(kid)
                logger.info("grant key retired", extra={"kid": kid, "state": status.state.value, "by": by})
                await self._audit.add_done(by, "grant-key.retire-by-force" if force else "grant-key.retire", kid)
                return status
        raise StoreUnavailable("the grant key changed at each try to retire it")

    def signing_id(self) -> str:
        """The id of the key that signs; "" without one."""
        key = signing_key(self._known.values(), self._now_ms())
        return "" if key is None else key.kid

    async def run(self) -> None:
        """Do what is due, for ever; during an outage of the store as soon as it is over."""
        subscribed = [
            self._known.subscribe(self._key_changed),
            self._views.nodes.subscribe(self._notice),
            self._views.replicas.subscribe(self._notice),
        ]
        await self._lookout.run(subscribed)

    async def look(self) -> None:
        """Make, let sign and delete what is due now. Raises StoreUnavailable."""
        now = self._now_ms()
        known = self._sorted()
        if not known:
            await self._make_anew()
            return
        newest = known[-1].value
        if now >= newest.active_from_ms + _KEY_LIFE_MS - PUBLISHED_BEFORE_USE_MS:
            kid = self._next_kid()
            if await self._make(new_key(kid, active_from_ms=now + PUBLISHED_BEFORE_USE_MS, made_at_ms=now)):
                logger.info("grant key made", extra={"kid": kid})
        for item in known:
            status = self._status(item)
            if status.state is KeyState.ANNOUNCED and status.early:
                if not status.unaware_nodes and not status.unaware_replicas:
                    await self._let_sign(item)
            elif 0 < status.used_until_ms < now and await self._store.delete(
                keys.grant_key(item.name), expected=item.modified
            ):
                logger.info("grant key deleted", extra={"kid": item.name})

    def _status(self, item: Item[GrantKeyRecord]) -> KeyStatus:
        now, key = self._now_ms(), item.value
        signing = signing_key(self._known.values(), now)
        used_until = 0
        unaware: tuple[tuple[str, ...], tuple[str, ...]] = (), ()
        if key is signing:
            state = KeyState.SIGNING
        elif key.active_from_ms > now:
            state = KeyState.ANNOUNCED
            unaware = self._unaware(key.kid)
        else:
            state = KeyState.VERIFYING
            replaced = min(other.active_from_ms for other in self._known.values() if _age(other) > _age(key))
            used_until = replaced + NEEDED_AFTER_USE_MS
        return KeyStatus(key.kid, state, key.made_at_ms, key.active_from_ms, used_until, key.early, *unaware)

    def _unaware(self, kid: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The nodes and the replicas that live and do not know the key; nodes of an earlier release never say so."""
        orders = self._views.orders
        removed = {name for name, item in orders.items.items() if item.value.order is Order.REMOVE}
        nodes = sorted(
            node.name for node in self._views.nodes.values() if kid not in node.grant_keys and node.name not in removed
        )
        replicas = sorted(one.id for one in self._views.replicas.values() if kid not in one.grant_keys)
        return tuple(nodes[:_MOST_NAMED]), tuple(replicas[:_MOST_NAMED])

    def _demand_unused(self, status: KeyStatus) -> None:
        if status.state is KeyState.SIGNING:
            raise NotYet(
                f"grant key {status.id} signs: `portway-admin grant-key rotate` makes the next one. --force replaces "
                "it at once"
            )
        if status.used_until_ms >= self._now_ms():
            raise NotYet(
                f"grants of key {status.id} may be in use until {_utc(status.used_until_ms)}: it is deleted by itself "
                "then. --force deletes it now: nodes refuse those grants, and tunnels of clients that show no newer "
                "one may end; clients renew within 35 minutes"
            )

    async def _rotated(self, kid: str, by: str, *, told: bool) -> KeyStatus:
        await self._known.caught_up(kid)
        if told:
            logger.info("grant key announced", extra={"kid": kid, "by": by})
            await self._audit.add_done(by, "grant-key.rotate", kid)
        views: tuple[View[Any], ...] = (self._known, self._views.nodes, self._views.replicas)
        await self._lookout.until(lambda: self._named(kid).state is not KeyState.ANNOUNCED, views, self._patience)
        return self._named(kid)

    def _named(self, kid: str) -> KeyStatus:
        item = self._known.items.get(kid)
        if item is None:
            raise StoreUnavailable("the grant key that was made is gone")
        return self._status(item)

    async def _let_sign(self, item: Item[GrantKeyRecord]) -> None:
        begins = self._next_begin(item.name)
        if begins == item.value.active_from_ms:  # done, and this clock is behind
            return
        record = msgspec.structs.replace(item.value, active_from_ms=begins)
        if await self._store.put(keys.grant_key(item.name), encode(record), expected=item.modified):
            logger.info("grant key signs", extra={"kid": item.name})

    def _next_begin(self, kid: str) -> int:
        """From when on this key signs, if it is to sign now: the youngest one does. This clock may be behind the one by
        which the key before began."""
        now = self._now_ms()
        signing = signing_key(self._known.values(), now)
        return now if signing is None or (now, kid) > _age(signing) else signing.active_from_ms + 1

    async def _replace(self) -> None:
        """Another key signs at once, known to nodes or not. Raises StoreUnavailable."""
        announced = [item for item in self._sorted() if self._status(item).state is KeyState.ANNOUNCED]
        if announced:
            await self._let_sign(announced[-1])
            await self._known.caught_up(announced[-1].name)
            return
        successor = self._next_kid()
        await self._make(new_key(successor, active_from_ms=self._next_begin(successor), made_at_ms=self._now_ms()))
        await self._known.caught_up(successor)

    async def _make_anew(self) -> None:
        """The last key is gone: somebody deleted it, or its record was damaged."""
        kid, now = self._next_kid(), self._now_ms()
        if await self._make(new_key(kid, active_from_ms=now, made_at_ms=now)):
            logger.error(
                "no grant key was left in the store, so a new one signs at once. Grants that the lost one signed are "
                "refused, and clients get new ones",
                extra={"kid": kid},
            )

    async def _make(self, key: GrantKeyRecord) -> bool:
        return await self._store.put(keys.grant_key(key.kid), encode(key), expected=ABSENT)

    def _key_changed(self, old: Item[GrantKeyRecord] | None, new: Item[GrantKeyRecord] | None) -> None:
        if old is not None and old.name.isdecimal():
            self._highest = max(self._highest, int(old.name))
        if old is not None and new is None and self._is_in_use(old.value):
            logger.error(
                "a grant key is gone from the store while grants that it signed may be in use: nodes refuse them, and "
                "clients get new ones. Unless it was retired by force, put back a copy of the record; "
                "`portway-admin grant-key rotate` replaces a key without refusals",
                extra={"key": keys.grant_key(old.name)},
            )
        self._lookout.notice()

    def _is_in_use(self, gone: GrantKeyRecord) -> bool:
        now = self._now_ms()
        younger = [key.active_from_ms for key in self._known.values() if _age(key) > _age(gone)]
        began = [active for active in younger if active <= now]
        return gone.active_from_ms <= now and (not began or now <= min(began) + NEEDED_AFTER_USE_MS)

    def _notice(self, old: object, new: object) -> None:
        """Nodes and replicas matter while a key is announced."""
        now = self._now_ms()
        if any(key.early and key.active_from_ms > now for key in self._known.values()):
            self._lookout.notice()

    def _sorted(self) -> list[Item[GrantKeyRecord]]:
        """Those that can be read, the oldest first."""
        return sorted(self._known.items.values(), key=lambda item: _age(item.value))

    def _names(self) -> set[str]:
        """Of all records, also those that cannot be read."""
        prefix = self._known.mirror.prefix
        return {key.removeprefix(prefix) for key in self._known.mirror.entries}

    def _next_kid(self) -> str:
        self._highest = max((self._highest, *(int(name) for name in self._names() if name.isdecimal())))
        return str(self._highest + 1)


def _age(key: GrantKeyRecord) -> tuple[int, str]:
    return key.active_from_ms, key.kid


def _utc(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
