"""What to do with a connection, decided from its first bytes: pure, no I/O.

A name that is malformed, missing, an IP address or of another domain gets the same answer as one that is not bound, so
that guessing names teaches nothing.
"""

from collections.abc import Container
from dataclasses import dataclass
from enum import IntEnum

from portway_proto.wire.labels import is_label
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN

from portway_relay.ingress.client_hello import Invalid, Parsed
from portway_relay.net.plain_http import looks_like_http


class Alert(IntEnum):
    """TLS alerts (RFC 8446 §6.2) that are sent in place of a handshake."""

    DECODE_ERROR = 50
    INTERNAL_ERROR = 80
    UNRECOGNIZED_NAME = 112

    @property
    def record(self) -> bytes:
        """The fatal alert as a record of its own."""
        return bytes((21, 3, 3, 0, 2, 2, self))


@dataclass(frozen=True, slots=True)
class Visitor:
    """A visitor of `<label>.<zone>`, which offers these ALPN protocols."""

    label: str
    zone: str
    offered: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClientLane:
    """A client's lane to this node."""


@dataclass(frozen=True, slots=True)
class PeerLane:
    """Another node's lane to this one."""


@dataclass(frozen=True, slots=True)
class PlainHttp:
    """An HTTP request without TLS."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """End the connection with this alert."""

    alert: Alert


Decision = Visitor | ClientLane | PeerLane | PlainHttp | Refuse


def decide(hello: Parsed | Invalid, first_bytes: bytes, *, zones: Container[str], server_name: str) -> Decision:
    """What a connection is for.

    zones: the `<region>.<domain>` that this node has certificates for.
    server_name: this node's name as the SNI of lanes.
    """
    if isinstance(hello, Invalid):
        return PlainHttp() if looks_like_http(first_bytes) else Refuse(Alert.DECODE_ERROR)
    name = (hello.sni or "").lower()
    if LINK_ALPN in hello.alpn:
        return ClientLane() if name == server_name else Refuse(Alert.UNRECOGNIZED_NAME)
    if MESH_ALPN in hello.alpn:
        return PeerLane() if name == server_name else Refuse(Alert.UNRECOGNIZED_NAME)
    label, _, zone = name.partition(".")
    if not is_label(label) or zone not in zones:
        return Refuse(Alert.UNRECOGNIZED_NAME)
    return Visitor(label, zone, hello.alpn)


def choose_alpn(offered: tuple[str, ...], *, h2_enabled: bool) -> str | None:
    """The protocol for a visitor's connection; None for none.

    h2 is chosen only where http/1.1 is not offered beside it. Browsers offer both, and one that holds an h2 connection
    to a tunnel sends the requests for another tunnel over it when certificate and address fit both.
    """
    if "http/1.1" in offered:
        return "http/1.1"
    return "h2" if h2_enabled and "h2" in offered else None
