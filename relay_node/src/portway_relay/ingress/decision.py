"""What to do with a connection, decided from its first bytes: pure, no I/O.

A name that is malformed, missing, an IP address or of another domain gets the same answer as one that is not bound, so
that guessing names teaches nothing. For the same reason what TLS itself could not accept is refused before the name is
looked at.
"""

from collections.abc import Container
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from portway_proto.wire.labels import is_label
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN
from portway_runtime.parse_results import Invalid
from portway_runtime.tls_choices import Group

from portway_relay.certificates import VISITOR_PROTOCOLS
from portway_relay.ingress.client_hello import Parsed
from portway_relay.net.plain_http import Request

# Hybrids with X25519: ML-KEM-768, which OpenSSL has from 3.5 on, and its draft. Browsers put them first.
_POST_QUANTUM: Final = (0x11EC, 0x6399)

_PROTOCOLS: Final = frozenset((*VISITOR_PROTOCOLS, LINK_ALPN, MESH_ALPN))


class Alert(IntEnum):
    """TLS alerts (RFC 8446 §6.2) that are sent in place of a handshake."""

    HANDSHAKE_FAILURE = 40
    DECODE_ERROR = 50
    INTERNAL_ERROR = 80
    UNRECOGNIZED_NAME = 112
    NO_APPLICATION_PROTOCOL = 120

    @property
    def record(self) -> bytes:
        """The fatal alert as a record of its own."""
        return bytes((21, 3, 3, 0, 2, 2, self))


@dataclass(frozen=True, slots=True)
class Visitor:
    """A visitor of `<label>.<zone>`, which offers these ALPN protocols; `group` is for its key exchange."""

    label: str
    zone: str
    offered: tuple[str, ...]
    group: Group


@dataclass(frozen=True, slots=True)
class ClientLane:
    """A client's lane to this node."""

    group: Group


@dataclass(frozen=True, slots=True)
class PeerLane:
    """Another node's lane to this one."""

    group: Group


@dataclass(frozen=True, slots=True)
class ForRegistry:
    """A client's, an operator's or a new node's connection to the registry, whose TLS ends there."""


@dataclass(frozen=True, slots=True)
class PlainHttp:
    """An HTTP request without TLS."""

    request: Request


@dataclass(frozen=True, slots=True)
class Refuse:
    """End the connection with this alert. `lacking`: the zone of the name, when this node should have a certificate for
    it and has none."""

    alert: Alert
    lacking: str = ""


Decision = Visitor | ClientLane | PeerLane | ForRegistry | PlainHttp | Refuse


def decide(
    hello: Parsed | Request | Invalid,
    *,
    zones: Container[str],
    server_name: str,
    lacking: Container[str] = (),
    registry_name: str = "",
) -> Decision:
    """What a connection is for, from what it begins with.

    zones: the `<region>.<domain>` that this node has certificates for.
    server_name: this node's name as the SNI of lanes.
    lacking: the `<region>.<domain>` of the cluster that it has no certificate for.
    registry_name: the registry's name, which is no secret, when connections for it can be passed on; "" for none.
    """
    if isinstance(hello, Request):
        return PlainHttp(hello)
    if isinstance(hello, Invalid):
        return Refuse(Alert.DECODE_ERROR)
    # RFC 6066 §3 says without the last dot of a fully qualified name; some clients send it.
    name = (hello.sni or "").lower().removesuffix(".")
    if registry_name and name == registry_name:
        return ForRegistry()
    group = choose_group(hello.groups, hello.shares)
    if group is None:
        return Refuse(Alert.HANDSHAKE_FAILURE)
    if hello.alpn and _PROTOCOLS.isdisjoint(hello.alpn):
        return Refuse(Alert.NO_APPLICATION_PROTOCOL)
    if LINK_ALPN in hello.alpn:
        return ClientLane(group) if name == server_name else Refuse(Alert.UNRECOGNIZED_NAME)
    if MESH_ALPN in hello.alpn:
        return PeerLane(group) if name == server_name else Refuse(Alert.UNRECOGNIZED_NAME)
    label, _, zone = name.partition(".")
    if not is_label(label) or zone not in zones:
        return Refuse(Alert.UNRECOGNIZED_NAME, zone if zone in lacking else "")
    return Visitor(label, zone, hello.alpn, group)


def choose_group(groups: tuple[int, ...], shares: tuple[int, ...]) -> Group | None:
    """The key exchange group for a peer that supports `groups` and has sent key shares for `shares`; None: none fits.

    Where `ssl` cannot set X25519 alone, OpenSSL takes the first share that it knows the group of, and asks for X25519
    when there is none: X25519 is chosen only when that leads to it. A hello that names no group at all is left to
    OpenSSL, which has no suite for it.
    """
    if Group.X25519 in groups:
        first = next((share for share in shares if not _passed_over(share)), Group.X25519)
        if first == Group.X25519:
            return Group.X25519
    return Group.P256 if Group.P256 in groups or not groups else None


def _passed_over(group: int) -> bool:
    """Whether OpenSSL does not know this group, or would spend no more on it than on X25519."""
    return group in _POST_QUANTUM or group & 0x0F0F == 0x0A0A  # RFC 8701 reserves these for nobody


def choose_alpn(offered: tuple[str, ...], *, h2_enabled: bool) -> str | None:
    """The protocol for a visitor's connection; None for none.

    h2 is chosen only where http/1.1 is not offered beside it. Browsers offer both, and one that holds an h2 connection
    to a tunnel sends the requests for another tunnel over it when certificate and address fit both.
    """
    if "http/1.1" in offered:
        return "http/1.1"
    return "h2" if h2_enabled and "h2" in offered else None
