"""The plain values that callers and carriers exchange: TLS settings, limits, addresses to dial, handshake results,
outcomes and counts.

Not here: what is done with them (contract.py).
"""

from dataclasses import dataclass, field
from enum import Enum

from portway_proto.wire.limits import OPEN_ANSWER_TIMEOUT, PING_INTERVAL, RESET_ANSWER_TIMEOUT, SILENCES
from portway_runtime.endpoints import Endpoint
from portway_runtime.proxies import Proxy
from portway_runtime.tls_choices import Group


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The TLS settings of a server. All are PEM; `certificate` is the chain, leaf first.

    `alpn` is at most one protocol and `group` the one key exchange group; the caller has matched both with the peer's
    offer. Lanes (LINK_ALPN, MESH_ALPN) are TLS 1.3 alone. With `client_ca` a client certificate signed by that CA is
    required. `ticket_keys` (80 bytes each, newest first) are shared between nodes; a
    carrier that cannot use them makes its own.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    alpn: str | None = None
    client_ca: bytes | None = None
    group: Group = Group.X25519
    ticket_keys: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The TLS settings of a client, which dials lanes: TLS 1.3, with the group that the client sends its key share for;
    a peer that asks for another one is dropped. It must show a certificate for `server_name` signed by `ca`. With
    `certificate` and `key` the client shows one too. All are PEM."""

    ca: bytes
    server_name: str
    alpn: str | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Handshake:
    """How a stream was established. `alpn` and `peer_certificate` (DER) are None without TLS, and when the handshake
    chose no protocol or the peer showed no certificate.

    `took` is in seconds, from the call of accept or connect. `round_trip` is the kernel's shortest round trip to the
    peer since the connection began, TCP's own handshake included, in seconds: unlike `took`, it includes no name
    resolution, no cryptography and no delay by a busy process. None when the platform does not report it. Through a
    proxy, to which the kernel's would be, it is the time of the TLS handshake: one round trip, and its cryptography.
    """

    alpn: str | None
    peer_certificate: bytes | None
    took: float
    round_trip: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds in bytes and timers in seconds.

    handshake:      for a TLS handshake, or for dialling with the handshake.
    high_water:     one side is not read while more bytes than this wait to be written to the other. The memory of one
                    visit is bounded by a small multiple of it.
    ping_interval:  silence after which a PING is sent on a control lane or idle lane.
    silences:       such a lane is dead after this many intervals of silence (reasons are in wire/limits.py).
    reset_answer:   for the peer's answer to a RESET; then the lane is closed.
    open_answer:    for the answer to OPEN; then the visit is reset and ends with Outcome.UNANSWERED.
    unacknowledged: a peer is dead that was sent bytes and has neither acknowledged nor sent anything for this long.
    linger:         for a closing socket: it is dropped when no written byte has left for this long, or when a TLS peer
                    has not answered the close for this long.
    """

    handshake: float = 10.0
    high_water: int = 128 * 1024
    ping_interval: float = PING_INTERVAL
    silences: int = SILENCES
    reset_answer: float = RESET_ANSWER_TIMEOUT
    open_answer: float = OPEN_ANSWER_TIMEOUT
    unacknowledged: float = 30.0
    linger: float = 30.0


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """The bounds of a pool that visitors are joined to.

    lanes:   lanes in all, idle and busy.
    wait:    seconds that a visitor waits for a lane.
    waiting: visitors that wait at the same time.
    """

    lanes: int = 4096
    wait: float = 10.0
    waiting: int = 1024


@dataclass(frozen=True, slots=True)
class SpareSizes:
    """How many idle lanes a dialling pool keeps, and its bounds.

    quiet:        idle lanes until the first visit.
    busy:         idle lanes from then on.
    lanes:        lanes in all, idle and busy.
    dials:        dials at the same time: a burst must not take the processor from visits that run.
    shrink_after: seconds; surplus idle lanes that no visit has used for this long are released.
    wait:         seconds that a visitor joined to this pool waits for a lane.
    """

    quiet: int = 2
    busy: int = 8
    lanes: int = 4096
    dials: int = 64
    shrink_after: float = 30.0
    wait: float = 10.0


@dataclass(frozen=True, slots=True)
class ProxyHeaderForm:
    """How a local server is told of its visitors: the version of the PROXY protocol, 1 or 2, and the ports that
    visitors connect to, over TLS and without; 0 when not known. Version 1 says nothing of TLS."""

    version: int
    tls_port: int = 0
    raw_port: int = 0


@dataclass(frozen=True, slots=True)
class DialTarget:
    """Where a pool dials its lanes. `greeting` is the type and payload of the first frame sent on each: PARK to a relay
    node, PEER between nodes. `via` is the proxy to dial through."""

    address: Endpoint
    tls: ClientTls
    greeting: tuple[int, bytes] = field(repr=False)
    via: Proxy | None = None


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """The state of a pool: idle lanes, lanes with a visit, visitors that wait for a lane, lanes being dialled."""

    idle: int
    busy: int
    waiting: int
    dialling: int = 0


class Outcome(Enum):
    """How a visit ended."""

    DONE = "done"  # both directions ended
    RESET = "reset"  # one side gave up
    REFUSED = "refused"  # the peer did not take it; the visitor is handed back
    NO_LANE = "no_lane"  # no lane came within the limit, or the pool was retired; the visitor is handed back
    UNREACHED = "unreached"  # OPEN was sent, and has not arrived as far as is known; the visitor is handed back
    UNANSWERED = "unanswered"  # OPEN was not answered in time: bytes may have arrived; the visitor is handed back
    VISITOR_LOST = "visitor_lost"  # before OPENED: the visitor gave up, or its handshake failed
    LANE_LOST = "lane_lost"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class LocalService:
    """The local server of a label, on the client's side. With `host` None it is on this machine: 127.0.0.1 is dialled,
    then ::1. With `proxy_header` each connection to it begins with a PROXY header that tells of the visitor."""

    port: int
    host: str | None = None
    proxy_header: ProxyHeaderForm | None = None


@dataclass(slots=True)
class Counters:
    """Totals since the carrier was made, read by metrics.

    Bytes are those of visits: in from visitors, out to visitors, whichever side of the lane this process is on.
    Handshakes are those of accepted connections; one that the peer abandons counts as neither done nor failed.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    visits_started: int = 0
    visits_ended: int = 0
    handshakes: int = 0
    handshakes_failed: int = 0
    lanes_opened: int = 0
    lanes_closed: int = 0
