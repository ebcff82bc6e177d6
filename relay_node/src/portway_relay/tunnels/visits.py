"""Visits: each visitor that was routed to a tunnel, until it is over.

Here: joining, counting, and what a visitor is told whom nobody took. Not here: who is routed where (ingress/), nor
the bytes (the carrier).
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial

from portway_proto.carry.contract import Carrier, Outcome, ServerTls, Stream, Visit, VisitEnd
from portway_proto.carry.tasks import Tasks
from portway_proto.wire.frames import Opening, RefusalReason, VisitKind

from portway_relay.config import Endpoint
from portway_relay.ingress.plain_http import bad_gateway, looks_like_http, unavailable
from portway_relay.tunnels.tunnel import Tunnel

logger = logging.getLogger(__name__)


class Visits:
    """Starts visits and sees them to their ends."""

    def __init__(
        self,
        carrier: Carrier,
        visitor_tls: Callable[[str | None], ServerTls],
        *,
        first_bytes_time: float,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._carrier = carrier
        self._visitor_tls = visitor_tls
        self._first_bytes_time = first_bytes_time
        self._tasks = Tasks("visits", on_failure)
        self._idle = asyncio.Event()
        self._idle.set()
        self.running = 0
        self.outcomes: Counter[str] = Counter()

    def start_tls(self, sock: socket.socket, peer: Endpoint, tunnel: Tunnel, alpn: str | None) -> None:
        """A visitor of a TLS address. Owns the socket. Raises TlsSettingsError."""
        self._start(sock, peer, tunnel, VisitKind.TLS, self._visitor_tls(alpn))

    def start_raw(self, sock: socket.socket, peer: Endpoint, tunnel: Tunnel | None) -> None:
        """A visitor of a raw port, whose tunnel may just have gone. Owns the socket."""
        if tunnel is None or tunnel.full:
            sock.close()
            return
        self._start(sock, peer, tunnel, VisitKind.RAW, None)

    async def over(self) -> None:
        """Wait until none is in progress."""
        await self._idle.wait()

    async def close(self) -> None:
        """Stop answering those that nobody took."""
        await self._tasks.close()

    def _start(
        self, sock: socket.socket, peer: Endpoint, tunnel: Tunnel, kind: VisitKind, tls: ServerTls | None
    ) -> None:
        stream = self._carrier.accept(sock, tls)
        opening = Opening(tunnel.label, peer.host, peer.port, kind)
        visit = self._carrier.join(stream, tunnel.holder.pool, opening, partial(self._ended, tunnel))
        tunnel.visits.add(visit)
        self.running += 1
        self._idle.clear()

    def _ended(self, tunnel: Tunnel, visit: Visit, end: VisitEnd) -> None:
        self.outcomes[end.outcome.value] += 1
        if end.visitor is None:
            self._over(tunnel, visit)
            return
        # A client's own node gives visitors as streams; lanes are visitors of the mesh.
        stream: Stream = end.visitor  # type: ignore[assignment]
        if visit.opening.kind is VisitKind.RAW:
            self._carrier.finish(stream, b"")
            self._over(tunnel, visit)
            return
        not_listening = end.outcome is Outcome.REFUSED and end.reason is RefusalReason.UNREACHABLE
        page = bad_gateway() if not_listening else unavailable()
        self._tasks.spawn(self._turn_away(tunnel, visit, stream, page), name="turn away")

    async def _turn_away(self, tunnel: Tunnel, visit: Visit, stream: Stream, page: bytes) -> None:
        """Tell a visitor that speaks HTTP; end the connection with any other in order."""
        try:
            first_bytes = await stream.first_bytes(self._first_bytes_time)
            self._carrier.finish(stream, page if looks_like_http(first_bytes) else b"")
        finally:
            self._over(tunnel, visit)

    def _over(self, tunnel: Tunnel, visit: Visit) -> None:
        tunnel.visits.discard(visit)
        self.running -= 1
        if not self.running:
            self._idle.set()
