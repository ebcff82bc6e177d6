"""What only a registry knows of itself, its store and the other registries, for `portway-admin doctor`.

Here: gathering it into one answer. Not here: what of it is wrong (doctor/).
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from portway_geo.locator import Locator
from portway_proto.v1 import admin_pb2 as pb
from portway_runtime.descriptors import usage
from portway_runtime.expiry import Watched
from portway_runtime.service_manager import own_unit
from portway_runtime.version import VERSION

from portway_registry.backup.moving import last_backup, note_backup
from portway_registry.errors import InvalidRequest, StoreUnavailable
from portway_registry.state.audit import Audit
from portway_registry.state.records import BackupRecord, Order
from portway_registry.state.views import Views
from portway_registry.store.contract import MemberHealth, Store, StoreHealth

_LONGEST_BY: Final = 100  # characters
_MOST_ABSENT: Final = 64  # nodes, as admin.proto says


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the process was started with, and what it makes of it. `watched`: its certificates, by name.
    created_at_ms: when the cluster was made."""

    replica_id: str
    created_at_ms: int
    domain: str
    geoip: Path | None
    locator: Locator
    watched: Callable[[], Mapping[str, Watched]]
    max_connections: int
    wanted_connections: int


class Health:
    """Reads everything at the time of the call."""

    def __init__(
        self,
        store: Store,
        views: Views,
        audit: Audit,
        now_ms: Callable[[], int],
        around: Surroundings,
    ) -> None:
        self._store = store
        self._views = views
        self._audit = audit
        self._now_ms = now_ms
        self._around = around

    async def report(self) -> pb.GetHealthResponse:
        """All of it; what the store has is left out while it does not answer."""
        around = self._around
        store, backup = await asyncio.gather(self._store.health(), self._backup())
        used, limit = usage()
        return pb.GetHealthResponse(
            time_ms=self._now_ms(),
            version=VERSION,
            domain=around.domain,
            replicas=[
                pb.ReplicaHealth(
                    id=one.id,
                    version=one.version,
                    started_at_ms=one.started_at_ms,
                    answers=one.id == around.replica_id,
                )
                for one in sorted(self._views.replicas.values(), key=lambda one: one.id)
            ],
            certificates=[
                pb.CertificateHealth(name=name, end_s=int(one.end.timestamp()), remedy=one.remedy)
                for name, one in around.watched().items()
            ],
            store=_store(store),
            geoip=pb.GeoIpHealth(file=str(around.geoip or ""), made_at_ms=around.locator.made_at() * 1000),
            backup=None if backup is None else _told(backup),
            descriptors=limit,
            descriptors_used=used,
            max_connections=around.max_connections,
            wanted_connections=around.wanted_connections,
            created_at_ms=around.created_at_ms,
            absent_nodes=self._absent(),
            unit=own_unit(),
        )

    async def note_backup(self, made_by: str, *, actor: str) -> pb.BackupInfo:
        """Record a back-up of now. Raises InvalidRequest, StoreUnavailable."""
        if len(made_by) > _LONGEST_BY or not made_by.isprintable():
            raise InvalidRequest(f"what made the back-up is at most {_LONGEST_BY} printable characters")
        made = BackupRecord(self._now_ms(), 0, made_by)
        await note_backup(self._store, made.at_ms, records=0, by=made_by)
        await self._audit.add_done(actor, "backup.note", made_by)
        return _told(made)

    def _absent(self) -> list[pb.AbsentNode]:
        removed = {one.node for one in self._views.orders.values() if one.order is Order.REMOVE}
        missing = [
            pb.AbsentNode(name=one.node, region=one.region, certificate_end_s=one.issued_until_ms // 1000)
            for one in self._views.identities.values()
            if one.issued_until_ms > self._now_ms()
            and one.node not in removed
            and self._views.nodes.get(one.node) is None
        ]
        return sorted(missing, key=lambda one: one.name)[:_MOST_ABSENT]

    async def _backup(self) -> BackupRecord | None:
        try:
            return await last_backup(self._store)
        except StoreUnavailable:  # which is told by itself
            return None


def _told(made: BackupRecord) -> pb.BackupInfo:
    return pb.BackupInfo(at_ms=made.at_ms, by=made.by)


def _store(found: StoreHealth) -> pb.StoreHealth:
    return pb.StoreHealth(
        kind=found.kind, failure=found.failure, members=map(_member, found.members), disk_free=found.disk_free
    )


def _member(one: MemberHealth) -> pb.StoreMember:
    return pb.StoreMember(
        name=one.name,
        endpoint=one.endpoint,
        failure=one.failure,
        version=one.version,
        size=one.size,
        used=one.used,
        leads=one.leads,
        learns=one.learns,
        applied=one.applied,
        round_trip_us=round(one.round_trip * 1e6),
        alarms=one.alarms,
    )
