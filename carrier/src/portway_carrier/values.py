"""What carriers are told as plain values: where to, by which TLS, within which limits; and what a handshake came to.

Here: values alone, which no carrier adds to. Not here: who does what with them (contract.py).
"""

from dataclasses import dataclass, field

from portway_proto.wire.limits import OPEN_ANSWER_TIMEOUT, PING_INTERVAL, RESET_ANSWER_TIMEOUT, SILENCES
from portway_runtime.endpoints import Endpoint


@dataclass(frozen=True, slots=True)
class ServerTls:
    """How to be a TLS server. PEM throughout; `certificate` is the chain, leaf first.

    `alpn` is already matched with what the peer offers: at most one name, or none. `client_ca` demands a client
    certificate that it signed. `ticket_keys` (80 bytes each, newest first) are shared between nodes; a carrier that
    cannot use them makes its own.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    alpn: str | None = None
    client_ca: bytes | None = None
    ticket_keys: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How to be a TLS client: the peer must show a certificate for `server_name` that `ca` (PEM) signed."""

    ca: bytes
    server_name: str
    alpn: str | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a handshake came to. `peer_certificate` is DER, None when the peer showed none.

    `round_trip` is the shortest that the kernel has seen to the peer since the connection began, TCP's own handshake
    included, in seconds: it knows nothing of names looked up, of cryptography, or of a program that is busy. None
    where the platform does not tell.
    """

    alpn: str | None
    peer_certificate: bytes | None
    took: float  # seconds, from the call of accept or connect
    round_trip: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds and timers, in bytes and seconds.

    handshake:      a TLS handshake, or dialling with it, takes no longer.
    high_water:     a side is not read while more than this waits to be written to the other. Memory of one
                    visit is bounded by a small multiple of it.
    ping_interval, silences: of control lanes and idle lanes (wire/limits.py gives the reasons).
    reset_answer:   a peer that has not answered a RESET for so long loses the lane.
    open_answer:    a visit whose OPEN was not answered for so long is reset, and ends with Outcome.UNANSWERED.
    unacknowledged: a peer that has acknowledged nothing of what was sent for so long, and sent nothing, is dead.
    linger:         a socket that is closed is dropped when for so long nothing of what was written last has left,
                    or when for so long a TLS peer has not answered the close.
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
    """Of a pool that joins visitors: so many lanes in all, so long and so many visitors waiting for one."""

    lanes: int = 4096
    wait: float = 10.0
    waiting: int = 1024


@dataclass(frozen=True, slots=True)
class SpareSizes:
    """Of a pool that dials: how many idle lanes to keep, and how many lanes in all (DESIGN §4, "Idle lanes").

    `quiet` until a first visit has come, then `busy`, and more while recent demand was higher; spare lanes above
    that are let go when nothing has used them for `shrink_after` seconds.
    """

    quiet: int = 2
    busy: int = 8
    lanes: int = 4096
    dials: int = 64  # dialled at once: a burst must not starve the visits that run of the processor
    shrink_after: float = 30.0
    wait: float = 10.0  # a visitor joined to this pool waits so long for a lane


@dataclass(frozen=True, slots=True)
class DialTarget:
    """Where a pool's lanes go. `greeting` is the first frame on each: PARK, or the mesh's own."""

    address: Endpoint
    tls: ClientTls
    greeting: tuple[int, bytes] = field(repr=False)
