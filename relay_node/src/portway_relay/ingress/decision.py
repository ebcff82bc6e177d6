"""The decision about a connection, from its first bytes: pure, no I/O.

Names that are malformed, missing, an IP address or of another domain get the same answer as one that nobody knows: who
guesses learns nothing.
"""

from collections.abc import Container
from dataclasses import dataclass
from enum import IntEnum

from portway_proto.wire.labels import is_label
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN

from portway_relay.ingress.client_hello import Invalid, Parsed
from portway_relay.net.plain_http import looks_like_http


class Alert(IntEnum):
    """TLS alerts (RFC 8446 §6.2) that are sent before any cryptography."""

    DECODE_ERROR = 50
    INTERNAL_ERROR = 80
    UNRECOGNIZED_NAME = 112

    @property
    def record(self) -> bytes:
        """The fatal alert as a record on its own."""
        return bytes((21, 3, 3, 0, 2, 2, self))


@dataclass(frozen=True, slots=True)
class Named:
    """A visitor of `<label>.<zone>` that offers these protocols."""

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
    """An HTTP request where TLS is spoken."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """End it with this alert."""

    alert: Alert


Decision = Named | ClientLane | PeerLane | PlainHttp | Refuse


def route(hello: Parsed | Invalid, first_bytes: bytes, *, zones: Container[str], server_name: str) -> Decision:
    """What a connection is.

    `zones` are the `<region>.<domain>` that this node has certificates for, `server_name` its own name for lanes.
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
    return Named(label, zone, hello.alpn)


def choose_alpn(offered: tuple[str, ...], *, h2_enabled: bool) -> str | None:
    """A browser offers both: on h2 it would send one tunnel's requests over another's connection (DESIGN §6)."""
    if "http/1.1" in offered:
        return "http/1.1"
    return "h2" if h2_enabled and "h2" in offered else None
