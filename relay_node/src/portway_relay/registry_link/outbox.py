"""What of the tunnels a registry has not been told yet.

Here: changes gathered into batches, the whole state after each registration. Not here: the stream (link.py). A tunnel
is opened without waiting for any of this (DESIGN §7).
"""

import asyncio
from collections.abc import Iterable

from portway_proto.v1.mesh_pb2 import Announce, Withdrawal
from portway_proto.v1.types_pb2 import TunnelInfo, TunnelOptions

from portway_relay.routing.tunnel import Tunnel


class Announcements:
    """The table's Announcer. `news` is set when there is something to take."""

    def __init__(self, node: str, region: str, zone: str) -> None:
        self._node = node
        self._region = region
        self._zone = zone
        self._connected = False
        self._bound: dict[str, TunnelInfo] = {}
        self._withdrawn: dict[str, int] = {}
        self._batch = 0
        self.news = asyncio.Event()

    def bound(self, tunnel: Tunnel) -> None:
        if self._connected:
            self._withdrawn.pop(tunnel.label, None)
            self._bound[tunnel.label] = self.describe(tunnel)
            self.news.set()

    def withdrawn(self, label: str, epoch: int) -> None:
        if self._connected:
            self._bound.pop(label, None)
            self._withdrawn[label] = epoch
            self.news.set()

    def whole(self, live: Iterable[Tunnel]) -> Announce:
        """Everything that is held now: the first batch of a registration. Changes are gathered from here on."""
        self._connected = True
        self._forget()
        return self._numbered(Announce(bound=map(self.describe, live), full=True))

    def take(self) -> Announce | None:
        """The changes since the batch before, if there are any."""
        if not self._bound and not self._withdrawn:
            return None
        batch = Announce(
            bound=self._bound.values(),
            withdrawn=[Withdrawal(label=label, epoch=epoch) for label, epoch in self._withdrawn.items()],
        )
        self._forget()
        return self._numbered(batch)

    def disconnected(self) -> None:
        """Nothing is kept for a registry that is not there: the next `whole` tells it all."""
        self._connected = False
        self._forget()

    def _forget(self) -> None:
        self._bound.clear()
        self._withdrawn.clear()

    def _numbered(self, batch: Announce) -> Announce:
        self._batch += 1
        batch.batch = self._batch
        return batch

    def describe(self, tunnel: Tunnel) -> TunnelInfo:
        """The tunnel as others learn of it."""
        return TunnelInfo(
            label=tunnel.label,
            node=self._node,
            region=self._region,
            epoch=tunnel.epoch,
            proof=tunnel.proof,
            tenant=tunnel.holder.tenant,
            token_id=tunnel.holder.token_id,
            options=TunnelOptions(h2_enabled=tunnel.h2_enabled, unencrypted=tunnel.raw is not None),
            unencrypted_port=tunnel.raw.port if tunnel.raw is not None else 0,
            opened_at_ms=tunnel.opened_at_ms,
            host=f"{tunnel.label}.{self._zone}",
        )
