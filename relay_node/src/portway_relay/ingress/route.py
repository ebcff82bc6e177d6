"""The decision about a connection, from its first bytes: pure, no I/O.

Names that are unknown, malformed, missing or an IP address all get the same answer: who guesses learns nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, Protocol, TypeVar

from portway_proto.wire.labels import is_label
from portway_proto.wire.limits import LINK_ALPN

from portway_relay.ingress.client_hello import Invalid, Parsed
from portway_relay.ingress.plain_http import looks_like_http


class Alert(IntEnum):
    """TLS alerts (RFC 8446 §6.2) that are sent before any cryptography."""

    DECODE_ERROR = 50
    INTERNAL_ERROR = 80
    UNRECOGNIZED_NAME = 112

    @property
    def record(self) -> bytes:
        """The fatal alert as a record on its own."""
        return bytes((21, 3, 3, 0, 2, 2, self))


class RoutedTunnel(Protocol):
    """What a route must know of a tunnel."""

    @property
    def h2_enabled(self) -> bool: ...

    @property
    def full(self) -> bool:
        """It has as many visits as it may."""
        ...


T = TypeVar("T", bound=RoutedTunnel)


@dataclass(frozen=True, slots=True)
class Visitor(Generic[T]):
    """Somebody for this tunnel; TLS is to choose `alpn`."""

    tunnel: T
    alpn: str | None


@dataclass(frozen=True, slots=True)
class ClientLane:
    """A client's lane to this node."""


@dataclass(frozen=True, slots=True)
class PlainHttp:
    """An HTTP request where TLS is spoken."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """End it with this alert."""

    alert: Alert


def route(
    hello: Parsed | Invalid, first_bytes: bytes, *, zone: str, server_name: str, tunnel_of: Callable[[str], T | None]
) -> Visitor[T] | ClientLane | PlainHttp | Refuse:
    """Where a connection goes.

    `zone` is `<region>.<domain>`, `server_name` the node's own name for lanes; `tunnel_of` gives the tunnel that
    holds a label here now.
    """
    if isinstance(hello, Invalid):
        return PlainHttp() if looks_like_http(first_bytes) else Refuse(Alert.DECODE_ERROR)
    name = (hello.sni or "").lower()
    if LINK_ALPN in hello.alpn:
        return ClientLane() if name == server_name else Refuse(Alert.UNRECOGNIZED_NAME)
    label, _, rest = name.partition(".")
    tunnel = tunnel_of(label) if rest == zone and is_label(label) else None
    if tunnel is None:
        return Refuse(Alert.UNRECOGNIZED_NAME)
    if tunnel.full:
        return Refuse(Alert.INTERNAL_ERROR)
    return Visitor(tunnel, _choose_alpn(hello.alpn, h2_enabled=tunnel.h2_enabled))


def _choose_alpn(offered: tuple[str, ...], *, h2_enabled: bool) -> str | None:
    """A browser offers both: on h2 it would send one tunnel's requests over another's connection (DESIGN §6)."""
    if "http/1.1" in offered:
        return "http/1.1"
    return "h2" if h2_enabled and "h2" in offered else None
