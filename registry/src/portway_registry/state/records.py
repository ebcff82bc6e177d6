"""The values in the store, and how they become bytes.

Nodes and tunnels are the protocol's own messages; the rest are JSON structs. A field added later has a default, so
that an old value can be read; an unknown field is passed over, so that a new one can.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Final, TypeVar

import msgspec
from google.protobuf.message import DecodeError
from portway_proto.v1.types_pb2 import (
    NODE_STATE_CORDONED,
    NODE_STATE_DRAINING,
    NODE_STATE_READY,
    REACH_REACHED,
    REACH_UNSPECIFIED,
    NodeInfo,
    TunnelInfo,
)

R = TypeVar("R", bound=msgspec.Struct)
M = TypeVar("M", NodeInfo, TunnelInfo)


class Role(StrEnum):
    """Who calls: the holder of a client's, an admin's or an invitation's token, or a node by its certificate."""

    CLIENT = "client"
    ADMIN = "admin"
    INVITED = "invited"
    NODE = "node"


class TokenRecord(msgspec.Struct, frozen=True):
    """An API token; `secret_sha256` is all that is kept of its secret."""

    id: str
    tenant: str
    role: Role
    secret_sha256: bytes
    description: str = ""
    max_tunnels: int = 0
    created_at_ms: int = 0
    revoked_at_ms: int = 0


class GrantKeyRecord(msgspec.Struct, frozen=True):
    """An Ed25519 key, both halves raw. It signs from `active_from_ms` on, until a younger one does."""

    kid: str
    private_key: bytes
    public_key: bytes
    active_from_ms: int = 0


class Order(StrEnum):
    """What operators want of a node."""

    CORDON = "cordon"
    DRAIN = "drain"
    REMOVE = "remove"


class OrderRecord(msgspec.Struct, frozen=True):
    """An order that stands until it is taken back, whether the node runs or not."""

    node: str
    order: Order
    at_ms: int = 0


# The state that a node takes on when it gets an order.
STATE_OF_ORDER: Final = {
    Order.CORDON: NODE_STATE_CORDONED,
    Order.DRAIN: NODE_STATE_DRAINING,
    Order.REMOVE: NODE_STATE_DRAINING,
}


# Unspecified: this cluster does not check addresses.
_REACHED: Final = frozenset((REACH_UNSPECIFIED, REACH_REACHED))


class AuthorityRecord(msgspec.Struct, frozen=True):
    """The cluster's own CA, PEM."""

    certificate: bytes
    private_key: bytes
    created_at_ms: int = 0


class InvitationRecord(msgspec.Struct, frozen=True):
    """What lets one new node join, once: with `key_sha256`, the hash of the public key that it was used for.

    `secret_sha256` is all that is kept of its secret; `node` is empty when the node may choose its name.
    """

    id: str
    region: str
    secret_sha256: bytes
    node: str = ""
    created_by: str = ""
    created_at_ms: int = 0
    expires_at_ms: int = 0
    used_at_ms: int = 0
    used_by: str = ""
    key_sha256: bytes = b""
    revoked_at_ms: int = 0


class IdentityRecord(msgspec.Struct, frozen=True):
    """Who joined under a node's name last. Certificates with this name that were issued before are refused."""

    node: str
    region: str
    invitation: str
    joined_at_ms: int
    anew: bool = False  # the name was somebody's before


class SettingsRecord(msgspec.Struct, frozen=True):
    """What is decided once for a cluster."""

    cluster_id: str
    created_at_ms: int = 0


class PortBlockRecord(msgspec.Struct, frozen=True):
    """Which node gives a block of raw ports to tunnels, and when it last asked for it."""

    node: str
    asked_at_ms: int


class AuditRecord(msgspec.Struct, frozen=True):
    """Who did what to what."""

    at_ms: int
    actor: str
    action: str
    target: str


def encode(record: msgspec.Struct) -> bytes:
    return msgspec.json.encode(record)


def decoder(kind: type[R]) -> Callable[[bytes], R]:
    """What reads values of `kind`; it raises ValueError for anything else (msgspec's errors are ValueErrors)."""
    return msgspec.json.Decoder(kind).decode


def decode_node(value: bytes) -> NodeInfo:
    """Raises ValueError."""
    return _parse(NodeInfo(), value)


def is_ready(node: NodeInfo) -> bool:
    """Whether a node serves as usual, and was reached at its advertised address or never checked."""
    return node.state == NODE_STATE_READY and node.reach in _REACHED


def decode_tunnel(value: bytes) -> TunnelInfo:
    """Raises ValueError."""
    return _parse(TunnelInfo(), value)


def _parse(message: M, value: bytes) -> M:
    try:
        message.ParseFromString(value)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    return message
