"""The hostile node's own answer to a visitor: a local server, and lanes that lead to it as a client's would.

Here: the server, the lanes, the destination that visits are joined to. Not here: which visits (hostile_node.py).
"""

import asyncio
import secrets
from collections.abc import Iterator, Mapping
from typing import Final

from portway_carrier.contract import Carrier, Lane, Pool
from portway_carrier.values import ClientTls, DialTarget, LocalService, PoolLimits, SpareSizes
from portway_proto.v1.lane_pb2 import Failure, Park
from portway_proto.v1.types_pb2 import TunnelOptions
from portway_proto.wire.frames import FrameType
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import LINK_ALPN, PROTOCOL_VERSION
from portway_proto.wire.statements import Claim, Presence
from portway_relay.routing.tunnel import Tunnel
from portway_runtime.endpoints import Endpoint

from portway_lab.cluster.visits import answer

# Of the tunnel that it answers for, whatever it was asked for: a visitor knows it by this.
NAME: Final = "hostile-node"
_SIZE: Final = 1_000
_ID_BYTES: Final = 16
_MOST_VISITS: Final = 100
_SIZES: Final = SpareSizes(quiet=8, busy=16, lanes=_MOST_VISITS)
_READ: Final = 65_536


class _EveryLabel(Mapping[str, LocalService]):
    """One local server for every label."""

    def __init__(self, service: LocalService) -> None:
        self._service = service

    def __getitem__(self, label: str) -> LocalService:
        return self._service

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class _Nobody:
    """The Holder of the tunnel: no client's session."""

    tenant = token_id = NAME
    max_tunnels = tenant_max_tunnels = 0
    grant_token = ""
    presence: Presence | None = None

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def tunnel_taken(self, tunnel: Tunnel, failure: Failure, claim: bytes = b"") -> None:
        """Never called: the tunnel is in no table."""


class OwnAnswer:
    """What visits are joined to while the node lies. `session_id` is what its lanes show in PARK."""

    def __init__(self, carrier: Carrier, address: Endpoint, cluster_ca: bytes, server_name: str) -> None:
        """`address` and `server_name` are the node's own, as its clients dial it."""
        self._carrier = carrier
        self._address = address
        self._tls = ClientTls(cluster_ca, server_name, LINK_ALPN)
        self.session_id = secrets.token_bytes(_ID_BYTES)
        self._parked: Pool | None = None
        self._dialled: Pool | None = None
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen, and dial the first lanes."""
        self._server = await asyncio.start_server(_answer, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        park = Park(version=PROTOCOL_VERSION, session_id=self.session_id, session_secret=self.session_id)
        target = DialTarget(self._address, self._tls, (FrameType.PARK, park.SerializeToString()))
        self._parked = self._carrier.pool(None, PoolLimits(lanes=_MOST_VISITS))
        self._dialled = self._carrier.dialling_pool(target, Side.ACCEPTOR, _SIZES, lambda error: None)
        self._carrier.serve(self._dialled, _EveryLabel(LocalService(port, "127.0.0.1")))

    def park(self, lane: Lane) -> None:
        """Take one of its own lanes."""
        if self._parked is None:
            lane.close()
        else:
            self._parked.park(lane)

    def tunnel(self, claim: Claim) -> Tunnel | None:
        """Where visits go; None while there is nothing."""
        if self._parked is None:
            return None
        return Tunnel(claim, _Nobody(self._parked), TunnelOptions(), max_visits=_MOST_VISITS, opened_at_ms=1)

    def close(self) -> None:
        """End its visits and lanes."""
        for pool in (self._dialled, self._parked):
            if pool is not None:
                pool.close()
        if self._server is not None:
            self._server.close()
        self._parked = self._dialled = self._server = None


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.read(_READ)
        writer.write(answer(NAME, _SIZE))
        writer.write_eof()
        while await reader.read(_READ):
            pass
    except OSError:
        pass
    finally:
        writer.close()
