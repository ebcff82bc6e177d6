"""The cluster in memory: the records of each kind, decoded once and kept up to date by a mirror.

Here: views and the order in which they are filled. Not here: decisions based on them.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

from portway_proto.v1.types_pb2 import NodeInfo, TunnelInfo

from portway_registry.errors import StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.domain_records import CertificateRecord, DnsItem, decode_dns
from portway_registry.state.records import (
    AuthorityRecord,
    FrontKeyRecord,
    GrantKeyRecord,
    IdentityRecord,
    InvitationRecord,
    OrderRecord,
    PortBlockRecord,
    PresenceRecord,
    ReplicaRecord,
    TenantRecord,
    TokenRecord,
    decode_authority,
    decode_grant_key,
    decode_node,
    decode_presence,
    decode_tunnel,
    decoder,
)
from portway_registry.store.contract import Entry, LeaseId, Revision, Store
from portway_registry.store.mirror import Mirror

logger = logging.getLogger(__name__)

T = TypeVar("T")
K = TypeVar("K")

# The names of these records are secrets of clients, or made of them.
_SECRET: Final = frozenset({keys.TUNNELS, keys.PRESENCES})
_READS: Final = 32  # concurrent reads of the store


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """A record with its revisions and its lease."""

    name: str
    value: T
    created: Revision
    modified: Revision
    lease: LeaseId


# Called with the old and the new record; None where there is none.
Change = Callable[[Item[T] | None, Item[T] | None], None]


class View(Generic[T]):
    """All records below a prefix, by name. In an outage of the store it stays as it was."""

    def __init__(
        self,
        store: Store,
        prefix: str,
        decode: Callable[[bytes], T],
        *,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._decode = decode
        self._items: dict[str, Item[T]] = {}
        self._unreadable: dict[str, Revision] = {}  # by name: which state of the record was logged
        self._subscribers: list[Change[T]] = []
        self.mirror = Mirror(store, prefix, on_failure=on_failure)
        self.mirror.subscribe(self._changed)
        self.items: Mapping[str, Item[T]] = MappingProxyType(self._items)

    async def start(self) -> None:
        """Fill the view, and follow the store from then on. Raises StoreUnavailable."""
        await self.mirror.start()

    async def caught_up(self, name: str) -> None:
        """Wait until the view shows this record as the store has it now. Raises StoreUnavailable."""
        await self.mirror.caught_up(self.mirror.prefix + name)

    async def caught_up_if_possible(self, name: str) -> None:
        """As `caught_up`, after a change that is in the store: an outage is logged, since the change must not be
        reported as failed."""
        try:
            await self.caught_up(name)
        except StoreUnavailable as error:
            logger.warning("not waited for the view", extra={"key_prefix": self.mirror.prefix, "reason": str(error)})

    async def close(self) -> None:
        """Stop following; the records stay as they are."""
        await self.mirror.close()

    def get(self, name: str) -> T | None:
        """The record of this name, or None."""
        item = self._items.get(name)
        return None if item is None else item.value

    def values(self) -> Iterator[T]:
        """All records, in no particular order."""
        return (item.value for item in self._items.values())

    def decode(self, entry: Entry) -> T | None:
        """Decode an entry that was read from the store; None, with an error logged, when it cannot be decoded."""
        try:
            return self._decode(entry.value)
        except ValueError as error:
            self._log_unreadable(entry, error)
            return None

    def _log_unreadable(self, entry: Entry, error: ValueError) -> None:
        """Once for each state of a record: it is read again and again."""
        name = entry.key.removeprefix(self.mirror.prefix)
        if self._unreadable.get(name) == entry.modified:
            return
        self._unreadable[name] = entry.modified
        secret = self.mirror.prefix in _SECRET
        logger.error(
            "a record in the store cannot be read and is ignored: put back a copy of it, or delete it",
            extra={"key": f"{self.mirror.prefix}..." if secret else entry.key, "reason": str(error)},
        )

    def item(self, entry: Entry) -> Item[T] | None:
        """As `decode`, with revisions and lease."""
        value = self.decode(entry)
        if value is None:
            return None
        name = entry.key.removeprefix(self.mirror.prefix)
        return Item(name, value, entry.created, entry.modified, entry.lease)

    async def read(self, names: Iterable[str]) -> dict[str, Item[T] | None]:
        """These records as the store has them now, a few of them at a time. Raises StoreUnavailable."""
        found: dict[str, Item[T] | None] = {}
        wanted = list(names)
        for start in range(0, len(wanted), _READS):
            some = wanted[start : start + _READS]
            entries = await asyncio.gather(*(self._store.get(self.mirror.prefix + name) for name in some))
            for name, entry in zip(some, entries, strict=True):
                found[name] = None if entry is None else self.item(entry)
        return found

    def subscribe(self, change: Change[T]) -> Callable[[], None]:
        """Call `change(old, new)` after each change from now on, with the view changed already.

        Returns a function that unsubscribes; it may be called again.
        """
        self._subscribers.append(change)
        return lambda: self._subscribers.remove(change) if change in self._subscribers else None

    def _changed(self, old_entry: Entry | None, new_entry: Entry | None) -> None:
        entry = new_entry or old_entry
        if entry is None:
            return
        name = entry.key.removeprefix(self.mirror.prefix)
        if new_entry is None:
            self._unreadable.pop(name, None)
        old = self._items.pop(name, None)
        new = None if new_entry is None else self.item(new_entry)
        if new is not None:
            self._items[name] = new
        self._index(old, new)
        if old is not None or new is not None:
            for subscriber in tuple(self._subscribers):
                subscriber(old, new)

    def _index(self, old: Item[T] | None, new: Item[T] | None) -> None:
        """For subclasses: update the indices by which they find records."""


class TunnelView(View[TunnelInfo]):
    """Tunnels, with indices by home node, by tenant, by token and by raw port."""

    def __init__(self, store: Store, *, on_failure: Callable[[BaseException], None]) -> None:
        super().__init__(store, keys.TUNNELS, decode_tunnel, on_failure=on_failure)
        self._by_node: dict[str, dict[str, Item[TunnelInfo]]] = {}
        self._by_tenant: dict[str, dict[str, Item[TunnelInfo]]] = {}
        self._by_token: dict[str, dict[str, Item[TunnelInfo]]] = {}
        self._by_port: dict[tuple[str, int], dict[str, Item[TunnelInfo]]] = {}

    def of_node(self, node: str) -> Mapping[str, Item[TunnelInfo]]:
        """A node's tunnels, by label."""
        return self._by_node.get(node, {})

    @property
    def tenants(self) -> Set[str]:
        """The names of the tenants that have tunnels."""
        return self._by_tenant.keys()

    def of_tenant(self, name: str) -> Mapping[str, Item[TunnelInfo]]:
        """A tenant's tunnels, by label."""
        return self._by_tenant.get(name, {})

    def of_token(self, token_id: str) -> Mapping[str, Item[TunnelInfo]]:
        """A token's tunnels, by label."""
        return self._by_token.get(token_id, {})

    def of_port(self, region: str, port: int) -> Mapping[str, Item[TunnelInfo]]:
        """The tunnels with this raw port of the region, by label; one, unless something went wrong."""
        return self._by_port.get((region, port), {})

    def _index(self, old: Item[TunnelInfo] | None, new: Item[TunnelInfo] | None) -> None:
        if old is not None:
            _drop(self._by_node, old.value.node, old.name)
            _drop(self._by_tenant, old.value.tenant, old.name)
            _drop(self._by_token, old.value.token_id, old.name)
            _drop(self._by_port, (old.value.region, old.value.unencrypted_port), old.name)
        if new is not None:
            self._by_node.setdefault(new.value.node, {})[new.name] = new
            self._by_tenant.setdefault(new.value.tenant, {})[new.name] = new
            self._by_token.setdefault(new.value.token_id, {})[new.name] = new
            if new.value.unencrypted_port:
                self._by_port.setdefault((new.value.region, new.value.unencrypted_port), {})[new.name] = new


class PresenceView(View[PresenceRecord]):
    """The newest presence of each session, by the session key in hex, and the size of each node's."""

    def __init__(self, store: Store, *, on_failure: Callable[[BaseException], None]) -> None:
        super().__init__(store, keys.PRESENCES, decode_presence, on_failure=on_failure)
        self._bytes_by_node: Counter[str] = Counter()

    def of_session(self, session_key: bytes) -> Item[PresenceRecord] | None:
        """The newest presence of a session, with its revisions."""
        return self.items.get(session_key.hex())

    def bytes_of_node(self, node: str) -> int:
        """The bytes of all presences that name this node."""
        return self._bytes_by_node[node]

    def _index(self, old: Item[PresenceRecord] | None, new: Item[PresenceRecord] | None) -> None:
        if old is not None:
            self._bytes_by_node[old.value.node] -= len(old.value.encoded)
            if not self._bytes_by_node[old.value.node]:
                del self._bytes_by_node[old.value.node]
        if new is not None:
            self._bytes_by_node[new.value.node] += len(new.value.encoded)


def _drop(index: dict[K, dict[str, Item[TunnelInfo]]], key: K, label: str) -> None:
    labels = index.get(key)
    if labels is not None:
        labels.pop(label, None)
        if not labels:
            del index[key]


class Views:
    """All views of one replica."""

    def __init__(self, store: Store, *, on_failure: Callable[[BaseException], None]) -> None:
        self.nodes: View[NodeInfo] = View(store, keys.NODES, decode_node, on_failure=on_failure)
        self.tunnels = TunnelView(store, on_failure=on_failure)
        self.presences = PresenceView(store, on_failure=on_failure)
        self.tokens: View[TokenRecord] = View(store, keys.TOKENS, decoder(TokenRecord), on_failure=on_failure)
        self.tenants: View[TenantRecord] = View(store, keys.TENANTS, decoder(TenantRecord), on_failure=on_failure)
        self.port_blocks: View[PortBlockRecord] = View(
            store, keys.PORTS, decoder(PortBlockRecord), on_failure=on_failure
        )
        self.grant_keys: View[GrantKeyRecord] = View(store, keys.GRANT_KEYS, decode_grant_key, on_failure=on_failure)
        self.authority: View[AuthorityRecord] = View(store, keys.AUTHORITY, decode_authority, on_failure=on_failure)
        self.front_key: View[FrontKeyRecord] = View(
            store, keys.FRONT_KEY, decoder(FrontKeyRecord), on_failure=on_failure
        )
        self.replicas: View[ReplicaRecord] = View(store, keys.REPLICAS, decoder(ReplicaRecord), on_failure=on_failure)
        self.orders: View[OrderRecord] = View(store, keys.ORDERS, decoder(OrderRecord), on_failure=on_failure)
        self.invitations: View[InvitationRecord] = View(
            store, keys.INVITATIONS, decoder(InvitationRecord), on_failure=on_failure
        )
        self.identities: View[IdentityRecord] = View(
            store, keys.IDENTITIES, decoder(IdentityRecord), on_failure=on_failure
        )
        self.dns: View[DnsItem] = View(store, keys.DNS, decode_dns, on_failure=on_failure)
        self.certificates: View[CertificateRecord] = View(
            store, keys.CERTIFICATES, decoder(CertificateRecord), on_failure=on_failure
        )

    async def start(self) -> None:
        """Fill all views. Raises StoreUnavailable; it may be called again then."""
        for view in self._in_order():
            await view.start()

    async def close(self) -> None:
        """Stop following."""
        for view in reversed(self._in_order()):
            await view.close()

    def _in_order(self) -> tuple[View[Any], ...]:
        """What nodes are checked against first, then nodes, then what nodes hold."""
        return (
            self.grant_keys,
            self.authority,
            self.front_key,
            self.replicas,
            self.tokens,
            self.tenants,
            self.invitations,
            self.identities,
            self.orders,
            self.port_blocks,
            self.dns,
            self.certificates,
            self.nodes,
            self.presences,
            self.tunnels,
        )
