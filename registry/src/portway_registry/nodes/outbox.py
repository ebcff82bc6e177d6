"""The outbox: messages for one node, held until its stream takes them.

Of messages that replace each other (settings, peers, owners of ports, registries, whether the store is reached,
certificates, DNS records, the order) only the last is held: a node that reads slowly is sent fewer, and never makes the
registry hold more.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

from portway_proto.v1.mesh_pb2 import (
    Announced,
    ClusterSettings,
    DnsRecords,
    Eviction,
    Evictions,
    Order,
    Peers,
    PortOwners,
    Probe,
    Reachability,
    Registered,
    RegistryFronts,
    RegistryMessage,
    Revocations,
    StoreReach,
    ZoneCertificates,
)
from portway_proto.wire.limits import MAX_CLAIM

_LARGEST_MESSAGE: Final = 3_500_000  # bytes
# Nodes accept messages of 4 MiB. Token ids in one message have up to 70 bytes each, evictions 70 and a claim.
_MAX_ENTRIES: Final = 20_000
_MAX_EVICTIONS: Final = _LARGEST_MESSAGE // (MAX_CLAIM + 80)

T = TypeVar("T")


class Outbox:
    """Messages for one node, sent in a fixed order: its registration, the rules, then what happened."""

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        self._taken = asyncio.Event()
        self._registered: Registered | None = None
        self._settings: ClusterSettings | None = None
        self._peers: tuple[Peers, ...] = ()
        self._port_owners: PortOwners | None = None
        self._dns_records: tuple[DnsRecords, ...] = ()
        self._registry_fronts: RegistryFronts | None = None
        self._store_reach: StoreReach | None = None
        self._revoked: dict[str, None] = {}
        self._zone_certificates: tuple[ZoneCertificates, ...] = ()
        self._order: Order | None = None
        self._probes: list[Probe] = []
        self._reachability: Reachability | None = None
        self._evictions: list[Eviction] = []
        self._announced: list[int] = []

    def registered(self, message: Registered) -> None:
        self._registered = message
        self._wake.set()

    def settings(self, message: ClusterSettings) -> None:
        self._settings = message
        self._wake.set()

    def peers(self, parts: tuple[Peers, ...]) -> None:
        self._peers = parts
        self._wake.set()

    def port_owners(self, message: PortOwners) -> None:
        self._port_owners = message
        self._wake.set()

    def dns_records(self, parts: tuple[DnsRecords, ...]) -> None:
        self._dns_records = parts
        self._wake.set()

    def registry_fronts(self, message: RegistryFronts) -> None:
        self._registry_fronts = message
        self._wake.set()

    def store_reach(self, *, away: bool) -> None:
        self._store_reach = StoreReach(away=away)
        self._wake.set()

    def zone_certificates(self, parts: tuple[ZoneCertificates, ...]) -> None:
        self._zone_certificates = parts
        self._wake.set()

    def order(self, message: Order) -> None:
        self._order = message
        self._wake.set()

    def probe(self, message: Probe) -> None:
        self._probes.append(message)
        self._wake.set()

    def reachability(self, message: Reachability) -> None:
        self._reachability = message
        self._wake.set()

    def revoke(self, token_ids: Iterable[str]) -> None:
        self._revoked.update(dict.fromkeys(token_ids))
        self._wake.set()

    def evict(self, evictions: Iterable[Eviction]) -> None:
        self._evictions.extend(evictions)
        self._wake.set()

    def announced(self, batch: int) -> None:
        self._announced.append(batch)
        self._wake.set()

    async def room(self) -> None:
        """Wait until fewer than _MAX_ENTRIES evictions and acknowledgements are held."""
        while len(self._evictions) + len(self._announced) >= _MAX_ENTRIES:
            self._taken.clear()
            await self._taken.wait()

    async def take(self) -> list[RegistryMessage]:
        """Remove and return all messages; waits until there is at least one."""
        while True:
            messages = list(self._drain())
            if messages:
                self._taken.set()
                return messages
            self._wake.clear()
            await self._wake.wait()

    def _drain(self) -> Iterator[RegistryMessage]:
        if self._registered is not None:
            yield RegistryMessage(registered=self._registered)
            self._registered = None
        if self._settings is not None:
            yield RegistryMessage(settings=self._settings)
            self._settings = None
        if self._revoked:
            for token_ids in _parts(list(self._revoked), _MAX_ENTRIES):
                yield RegistryMessage(revocations=Revocations(token_ids=token_ids))
            self._revoked.clear()
        # Before the peers, whose regions a node would else take for ones that it has no certificate for.
        for certificates in self._zone_certificates:
            yield RegistryMessage(zone_certificates=certificates)
        self._zone_certificates = ()
        for part in self._peers:
            yield RegistryMessage(peers=part)
        self._peers = ()
        if self._port_owners is not None:
            yield RegistryMessage(port_owners=self._port_owners)
            self._port_owners = None
        for records in self._dns_records:
            yield RegistryMessage(dns_records=records)
        self._dns_records = ()
        if self._registry_fronts is not None:
            yield RegistryMessage(registry_fronts=self._registry_fronts)
            self._registry_fronts = None
        if self._store_reach is not None:
            yield RegistryMessage(store_reach=self._store_reach)
            self._store_reach = None
        if self._order is not None:
            yield RegistryMessage(order=self._order)
            self._order = None
        if self._reachability is not None:
            yield RegistryMessage(reachability=self._reachability)
            self._reachability = None
        for probe in self._probes:
            yield RegistryMessage(probe=probe)
        self._probes.clear()
        if self._evictions:
            for evictions in _parts(self._evictions, _MAX_EVICTIONS):
                yield RegistryMessage(evictions=Evictions(evictions=evictions))
            self._evictions.clear()
        for batch in self._announced:
            yield RegistryMessage(announced=Announced(batch=batch))
        self._announced.clear()


def _parts(entries: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The entries in pieces of at most `size`; nodes take each message as an addition to those before."""
    return (entries[start : start + size] for start in range(0, len(entries), size))
