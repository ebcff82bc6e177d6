"""The values in the store, and their encoding.

Nodes and tunnels are the protocol's own messages; the rest are JSON structs. A field added later has a default, so that
old values can be read; unknown fields are ignored, so that newer values can. Not here: records of the domain's zone and
its certificates (domain_records.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
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
from portway_proto.wire.limits import CLOCK_LEEWAY
from portway_proto.wire.statements import read_presence
from portway_runtime.identities import UNREADABLE

R = TypeVar("R", bound=msgspec.Struct)
M = TypeVar("M", NodeInfo, TunnelInfo)


class Role(StrEnum):
    """What a caller is: holder of a client's, an admin's or an invitation's token, or a node with its certificate."""

    CLIENT = "client"
    ADMIN = "admin"
    INVITED = "invited"
    NODE = "node"


class TokenRecord(msgspec.Struct, frozen=True):
    """An API token; of its secret only the hash is stored. A time of 0 means never, `max_tunnels` 0 the tenant's."""

    id: str
    tenant: str
    role: Role
    secret_sha256: bytes
    description: str = ""
    max_tunnels: int = 0
    created_at_ms: int = 0
    revoked_at_ms: int = 0


class TenantRecord(msgspec.Struct, frozen=True):
    """A tenant with a quota of its own. A tenant without one has no record: its tokens name it."""

    name: str
    max_tunnels: int


class GrantKeyRecord(msgspec.Struct, frozen=True):
    """An Ed25519 key pair, both keys raw. It signs from `active_from_ms` on, until a younger one does.

    early: it signs before that time, which is then changed, once all nodes and replicas know it.
    """

    kid: str
    private_key: bytes
    public_key: bytes
    active_from_ms: int = 0
    made_at_ms: int = 0
    early: bool = False


class ReplicaRecord(msgspec.Struct, frozen=True):
    """A registry replica that lives: the ids of the grant keys that it knows, of the CAs that it trusts, and of the one
    that the certificate of its mesh port is from; its release, "" for one that does not say. front: host:port of its
    public port, for nodes; "" while it serves none. mesh: where nodes reach its mesh port, as host:port. front_keys:
    the ids of the secrets of PROXY headers that it knows."""

    id: str
    started_at_ms: int = 0
    grant_keys: tuple[str, ...] = ()
    authorities: tuple[str, ...] = ()
    certificate_authority: str = ""
    front: str = ""
    version: str = ""
    mesh: tuple[str, ...] = ()
    front_keys: tuple[str, ...] = ()


class Order(StrEnum):
    """What operators order a node to do."""

    CORDON = "cordon"
    DRAIN = "drain"
    REMOVE = "remove"


class OrderRecord(msgspec.Struct, frozen=True):
    """An order, in force until it is taken back, whether the node runs or not."""

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


class StoredAuthority(msgspec.Struct, frozen=True):
    """A CA: certificate and private key, PEM."""

    certificate: bytes
    private_key: bytes
    created_at_ms: int = 0


class AuthorityRecord(msgspec.Struct, frozen=True):
    """The cluster's own CA, which issues: certificate and private key, PEM.

    next: is trusted and issues nothing yet. before: is trusted and issues nothing any more. Of these two there is one
    at most. changed_at_ms: when the last of them came or went.
    """

    certificate: bytes
    private_key: bytes
    created_at_ms: int = 0
    next: StoredAuthority | None = None
    before: StoredAuthority | None = None
    changed_at_ms: int = 0


class FrontKeyRecord(msgspec.Struct, frozen=True):
    """The secret that nodes' keys for PROXY headers are made of. `key` is in use, and headers by `other` are accepted
    too: that is the next one, while replicas hear of it, or else the one before. changed_at_ms: when it was made, or
    came into use. early: the next one comes into use once all replicas know it."""

    key: bytes
    changed_at_ms: int
    other: bytes = b""
    other_is_next: bool = False
    early: bool = False


class InvitationRecord(msgspec.Struct, frozen=True):
    """An invitation for one new node. Of its secret only `secret_sha256` is stored.

    node: the only name it is good for; "" when the node may choose. used_by, key_sha256: the name of the node that used
    it, and the hash of that node's public key.
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


class NotedCertificate(msgspec.Struct, frozen=True):
    """A node's certificate: the id of the CA that it is from, "" when not known, when it ends, and the ids of the CAs
    that the node was told with it."""

    authority: str
    until_ms: int
    trusted: tuple[str, ...] = ()


class IdentityRecord(msgspec.Struct, frozen=True):
    """The last node that joined under a name. Certificates for the name issued before `joined_at_ms` are refused.

    registered_at_ms: when it first registered with its certificate; 0 before.
    authority: the id of the CA of its last certificate, which ends at `issued_until_ms`; "" and 0 when not known.
    trusted: the ids of the CAs that it was told with that certificate.
    former: a certificate with other CAs, which the node still has if no answer with a later one has reached it.
    """

    node: str
    region: str
    invitation: str
    joined_at_ms: int
    anew: bool = False  # the name was another node's before
    registered_at_ms: int = 0
    authority: str = ""
    issued_until_ms: int = 0
    trusted: tuple[str, ...] = ()
    former: NotedCertificate | None = None


@dataclass(frozen=True, slots=True)
class PresenceRecord:
    """A presence, whose signature was checked before it was stored. Its list of claims is read where it is needed: all
    lists of a million sessions would take a gigabyte."""

    node: str
    time_ms: int
    encoded: bytes = field(repr=False)


class SettingsRecord(msgspec.Struct, frozen=True):
    """What is chosen once for a cluster, at its first start."""

    cluster_id: str
    created_at_ms: int = 0


class BackupRecord(msgspec.Struct, frozen=True):
    """A back-up of the store: when it was made, how many records it has (0 when not known), and by what."""

    at_ms: int
    records: int = 0
    by: str = ""


class PortBlockRecord(msgspec.Struct, frozen=True):
    """The node that owns a block of raw ports, and when it last renewed that."""

    node: str
    asked_at_ms: int


class AuditRecord(msgspec.Struct, frozen=True):
    """Who did what, and to what: a token's or invitation's id, an action such as `token.create`, its target."""

    at_ms: int
    actor: str
    action: str
    target: str


def encode(record: msgspec.Struct) -> bytes:
    return msgspec.json.encode(record)


def decoder(kind: type[R]) -> Callable[[bytes], R]:
    """A function that decodes values of `kind`, and raises ValueError for others (msgspec's errors are ValueErrors)."""
    return msgspec.json.Decoder(kind).decode


def decode_node(value: bytes) -> NodeInfo:
    """A node's record. Raises ValueError."""
    return _parse(NodeInfo(), value)


# The fields of a node's record that say what it knows and how it is, which only registries use.
FOR_REGISTRIES: Final = (
    "grant_keys",
    "authorities",
    "certificate_authority",
    "unaware_clients",
    "dns_version",
    "descriptors",
    "descriptors_used",
    "links",
    "unit",
)
# Those that its other nodes need as well, for DNS answers, and clients do not.
FOR_NODES: Final = ("addresses", "dns", "zones")


def is_ready(node: NodeInfo) -> bool:
    """Whether a node serves as usual, was reached at its advertised address or never checked, and has a clock by which
    it can judge grants."""
    return node.state == NODE_STATE_READY and node.reach in _REACHED and has_right_clock(node)


def has_right_clock(node: NodeInfo) -> bool:
    """Whether its clock is as near to the registry's as nodes allow when they judge a grant."""
    return abs(node.clock_ahead_s) <= CLOCK_LEEWAY


def waits_for_certificate(node: NodeInfo) -> bool:
    """Whether it takes no clients for want of a certificate of its own region, and by nobody's order."""
    lacks = node.lacking_regions > 0 and f"{node.region}.{node.domain}" not in node.zones
    return node.state == NODE_STATE_CORDONED and lacks


def decode_grant_key(value: bytes) -> GrantKeyRecord:
    """A grant key whose halves belong together. Raises ValueError."""
    record = _read_grant_key(value)
    if Ed25519PrivateKey.from_private_bytes(record.private_key).public_key().public_bytes_raw() != record.public_key:
        raise ValueError("its public key is not that of its private key")
    return record


def decode_authority(value: bytes) -> AuthorityRecord:
    """The cluster's CAs, of which all certificates can be read, and the keys that issue or will. Raises ValueError,
    which says which of them cannot."""
    record = _read_authority(value)
    for which, one in (("the CA that issues", record), ("the next CA", record.next), ("the CA before", record.before)):
        try:
            if one is not None:
                public = x509.load_pem_x509_certificate(one.certificate).public_key()
                if one is not record.before and load_pem_private_key(one.private_key, None).public_key() != public:
                    raise ValueError("its key is not that of its certificate")
        except UNREADABLE as error:
            raise ValueError(f"{which} is damaged: {error}") from error
    return record


def decode_tunnel(value: bytes) -> TunnelInfo:
    """A tunnel's record. Raises ValueError."""
    return _parse(TunnelInfo(), value)


def decode_presence(value: bytes) -> PresenceRecord:
    """A session's presence. Raises ValueError."""
    presence = read_presence(value)
    return PresenceRecord(presence.node, presence.time_ms, value)


_read_authority: Final = decoder(AuthorityRecord)
_read_grant_key: Final = decoder(GrantKeyRecord)


def _parse(message: M, value: bytes) -> M:
    try:
        message.ParseFromString(value)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    return message
