"""A port of the registry: it accepts, and passes what has a turn on to a gRPC server on a socket of the machine.

gRPC can neither bound connections by address nor end one, and an interceptor is not told whose connection a call came
on. So the kernel gives each connection to gRPC a name of its own (an abstract Unix address, `unix(7)`, autobind), which
gRPC tells as the call's peer, and which leads back to the connection here.

A node passes connections on that came to it for the registry. It writes a PROXY header in front of them; one that is
believed says where the connection comes from, for everything that asks.

Here: sockets, and the list of connections. Not here: which of them have a turn or make room (admission.py), which
headers are believed (node_headers.py).
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

from portway_runtime.arrivals import ArrivalLimits, Arrivals
from portway_runtime.balancers import Network
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.listener import finish
from portway_runtime.parse_results import Invalid, NeedMore
from portway_runtime.proxy_protocol import Parsed, parse
from portway_runtime.tasks import Tasks
from portway_runtime.time_limit import time_limit

from portway_registry.net.admission import Admission, Limits, share_of_address
from portway_registry.net.connection import Connection
from portway_registry.net.node_headers import NodeHeaders, PassedOn, Refusal
from portway_registry.net.splice import Splice

logger = logging.getLogger(__name__)

# Seconds for a ClientHello; five round trips of a slow line.
_HELLO_TIME: Final = 5.0
# Seconds between two looks at the connections that came just before the port stopped listening.
_LOOK_AGAIN: Final = 0.005
# Bytes that are read at once. More makes a large announcement no faster.
_READ_SIZE: Final = 64 << 10
_RECORD_HEADER: Final = 5  # type, version, length (RFC 8446 §5.1)
_HANDSHAKE: Final = 22
_LONGEST_RECORD: Final = 16 << 10
_V2_BEGINS: Final = b"\r\n"  # a PROXY header of version 2, which alone has a proof


class Hello(Enum):
    """What a connection begins with."""

    TLS = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class Headed:
    """A whole ClientHello with a PROXY header in front of it."""

    header: Parsed


def first_message(data: bytes) -> Hello | Headed | NeedMore:
    """As `first_record`, also behind a PROXY header of version 2."""
    if not _V2_BEGINS.startswith(data[: len(_V2_BEGINS)]):
        return first_record(data)
    header = parse(data)
    if isinstance(header, Invalid):
        return Hello.OTHER
    if isinstance(header, NeedMore):
        return header
    behind = data[header.length :]
    hello = first_record(behind) if behind else NeedMore(1)
    if isinstance(hello, NeedMore):
        return NeedMore(header.length + hello.size)
    return Headed(header) if hello is Hello.TLS else hello


def first_record(data: bytes) -> Hello | NeedMore:
    """Whether the first TLS record is whole. It holds a ClientHello or its beginning."""
    if data[0] != _HANDSHAKE:
        return Hello.OTHER
    if len(data) < _RECORD_HEADER:
        return NeedMore(_RECORD_HEADER)
    length = int.from_bytes(data[3:_RECORD_HEADER], "big")
    if not 0 < length <= _LONGEST_RECORD:
        return Hello.OTHER
    end = _RECORD_HEADER + length
    return Hello.TLS if len(data) >= end else NeedMore(end)


class Front:
    """One port, from `serve` to `close`."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        clock: Monotonic,
        node_headers: NodeHeaders | None = None,
        balancers: Sequence[Network] = (),
    ) -> None:
        """`name` is how the port is called in the log. Without `node_headers` none is believed. `balancers`: networks
        of load balancers in front."""
        self._name = name
        self._clock = clock
        self._node_headers = node_headers
        self.arrivals = Arrivals[Hello | Headed](
            name,
            first_message,
            self._greeted,
            lambda _: "",
            balancers=balancers,
            limits=ArrivalLimits(_HELLO_TIME, limits.hellos, share_of_address(limits.hellos)),
            clock=clock,
        )
        self.admission = Admission(limits, clock)
        self._tasks = Tasks("front")
        self._splices: set[Splice] = set()
        self._by_name: dict[str, Connection] = {}
        self._buffer = memoryview(bytearray(_READ_SIZE))
        self._inner = ""

    def connections(self) -> dict[str, int]:
        """How many there are, by how far they have come."""
        return {"hello awaited": self.arrivals.half_open} | self.admission.counts()

    def ended(self) -> Counter[str]:
        """How many were ended here, by reason."""
        rejected = Counter({reason.replace("_", " "): count for reason, count in self.arrivals.rejected.items()})
        return self.admission.ended + rejected + Counter({"no hello": self.arrivals.evicted})

    def serve(self, sockets: Sequence[socket.socket], inner: Path) -> None:
        """Accept on these listening sockets, which are owned from now on, for the gRPC server that listens at
        `inner`."""
        self._inner = str(inner)
        self.arrivals.listen(sockets)

    def find(self, peer: str) -> Connection | None:
        """The connection that gRPC calls `peer`; None for one that has ended, or that did not come through here."""
        return self._by_name.get(peer)

    def call_began(self, connection: Connection) -> None:
        self.admission.call_began(connection)

    def identified(self, connection: Connection) -> None:
        """The caller of a call in progress is known."""
        self.admission.identified(connection)

    def call_ended(self, connection: Connection, *, identified: bool) -> None:
        self.admission.call_ended(connection, identified=identified)

    async def stop_listening(self, *, within: float) -> None:
        """Refuse new connections; all others go on. Waits at most `within` seconds until those that came last have made
        their first call, which gRPC would refuse once it stops."""
        try:
            async with time_limit(within):
                await finish(self.arrivals.listeners, within=within / 2)
                await self.arrivals.heard()
                while self.admission.strangers:  # noqa: ASYNC110 - a round trip or two
                    await asyncio.sleep(_LOOK_AGAIN)
        except TimeoutError:
            pass

    async def close(self) -> None:
        """Accept no more, and end all connections."""
        self.arrivals.close()
        self.admission.close()
        splices = list(self._splices)
        for splice in splices:
            splice.close()
        await self._tasks.close()
        while not all(splice.over for splice in splices):  # noqa: ASYNC110 - a turn or two
            await asyncio.sleep(0)

    def _greeted(self, sock: socket.socket, peer: Endpoint, hello: Hello | Headed, first_bytes: bytes) -> None:
        if hello is Hello.TLS:
            self._arrived(sock, peer)
        elif isinstance(hello, Headed) and self._node_headers is not None:
            self._headed(sock, peer, hello.header, self._node_headers, first_bytes)
        else:
            self._refuse(sock, peer, first_bytes)

    def _headed(
        self, sock: socket.socket, peer: Endpoint, found: Parsed, headers: NodeHeaders, first_bytes: bytes
    ) -> None:
        """A ClientHello behind a header. The header alone is consumed."""
        verdict = headers.judge(found.header)
        if isinstance(verdict, PassedOn):
            try:
                sock.recv(found.length)
            except OSError:  # it was reset just now
                sock.close()
                return
            self._arrived(sock, verdict.source, verdict.node)
            return
        if verdict is Refusal.UNPROVED:
            self._refuse(sock, peer, first_bytes)
        else:
            about = {"port": self._name, "peer": peer.host, "why": verdict.value}
            logger.warning("connections with a PROXY header that is not believed are refused", extra=about)
            self.arrivals.turn_away(sock, f"proxy_header_{verdict.value}")

    def _refuse(self, sock: socket.socket, peer: Endpoint, first_bytes: bytes) -> None:
        """It begins with something else, which is counted if that is a header of nobody known."""
        if self.arrivals.is_proxied(first_bytes, peer):
            self.arrivals.turn_away(sock, "proxy_header")
        else:
            sock.close()

    def _arrived(self, sock: socket.socket, peer: Endpoint, ingress: str = "") -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        splice = Splice(
            sock,
            peer,
            ingress=ingress,
            opening=self._open,
            ended=self._ended,
            buffer=self._buffer,
            clock=self._clock,
        )
        self._splices.add(splice)
        self.admission.arrived(splice.connection)

    def _open(self, splice: Splice) -> None:
        try:
            inner = socket.socket(socket.AF_UNIX)
        except OSError:
            splice.close()
            return
        try:
            inner.setblocking(False)
            inner.bind("")
            inner.connect(self._inner)
        except OSError:  # gRPC's queue is full, or its server has stopped
            inner.close()
            splice.close()
            return
        name = f"unix-abstract:{inner.getsockname()[1:].decode()}"
        self._by_name[name] = splice.connection
        splice.connect(inner, name)
        self._tasks.spawn(splice.run(), name="open a connection")

    def _ended(self, splice: Splice) -> None:
        self._splices.discard(splice)
        if splice.name is not None:
            self._by_name.pop(splice.name, None)
        self.admission.gone(splice.connection)
