"""Statements: what a client signs about its tunnels, and what any receiver verifies offline (WIRE.md §8).

A claim is signed by the tunnel's key: this label is at this node, from this epoch on, for this session key. A presence
is signed by the session key: at this time I hold these claims at this node. A greeting is signed by the session key for
one node's certificate. Here: their bytes, their form, signing, verifying, and whether a presence places a claim. Not
here: who is asked, what is remembered, clocks.

Signatures are Ed25519 over the statement's kind, the cluster, and the statement: none counts as another kind's, or in
another cluster.
"""

import hashlib
import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from portway_proto.wire.labels import Label, label_of_key
from portway_proto.wire.limits import (
    CLAIM_ID_SIZE,
    CLOCK_LEEWAY,
    CLUSTER_SIZE,
    KEY_SIZE,
    MAX_CLAIM,
    MAX_CLAIMS,
    MAX_EPOCH_AHEAD,
    MAX_NODE_NAME,
    MAX_OPTIONS,
    PRESENCE_FRESH,
    SIGNATURE_SIZE,
)

_CLAIM_KIND: Final = b"portway-claim-2"
_PRESENCE_KIND: Final = b"portway-presence-2"
_GREETING_KIND: Final = b"portway-hello-2"
_CLUSTER_KIND: Final = b"portway-cluster-2"

_CLAIM_START: Final = struct.Struct(f">{KEY_SIZE}sQ{KEY_SIZE}sB")  # key, epoch, session key, length of the node's name
_PRESENCE_START: Final = struct.Struct(f">{KEY_SIZE}sQB")  # session key, time, length of the node's name
_SHORT: Final = struct.Struct(">H")
_MAX_TIME: Final = 2**63 - 1


class StatementInvalid(ValueError):
    """A statement that does not have its form."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signature is to be checked against: `public_key` and `signature` raw, `message` as it was signed."""

    public_key: bytes
    message: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def is_genuine(self) -> bool:
        """Whether the holder of the key has signed the message; takes 60 to 160 µs."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(self.signature, self.message)
        except (InvalidSignature, ValueError):
            return False
        return True


class SigningKey:
    """A private Ed25519 key: a tunnel's, or a session's."""

    __slots__ = ("_key", "public")

    def __init__(self, private: bytes | None = None) -> None:
        """`private` has 32 bytes; random by default. Raises ValueError for another length."""
        self._key = Ed25519PrivateKey.generate() if private is None else Ed25519PrivateKey.from_private_bytes(private)
        self.public = self._key.public_key().public_bytes_raw()

    @property
    def private(self) -> bytes:
        """The 32 bytes to keep in a file."""
        return self._key.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """The signature: 64 bytes, the same for the same message."""
        return self._key.sign(message)


def cluster_tag(cluster_id: str) -> bytes:
    """The 16 bytes that stand for a cluster in what is signed."""
    return hashlib.sha256(_CLUSTER_KIND + cluster_id.encode()).digest()[:CLUSTER_SIZE]


@dataclass(frozen=True)
class Claim:
    """A claim of the right form; its signature may not have been checked.

    key: the tunnel's public key, which the label is derived from. options: TunnelOptions, serialized. encoded: the
    whole statement as it is sent.
    """

    key: bytes = field(repr=False)
    epoch: int
    session_key: bytes = field(repr=False)
    node: str
    options: bytes
    encoded: bytes = field(repr=False)

    @cached_property
    def label(self) -> Label:
        return label_of_key(self.key)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the whole statement."""
        return hashlib.sha256(self.encoded).digest()

    @property
    def id(self) -> bytes:
        """The 8 bytes by which a presence lists it."""
        return self.digest[:CLAIM_ID_SIZE]

    @property
    def rank(self) -> tuple[int, bytes]:
        """Of two claims to a label the one with the greater rank owns it, at every receiver."""
        return self.epoch, self.digest

    def signed(self, cluster: bytes) -> Signed:
        """What its signature is checked against, in the cluster of this tag."""
        return Signed(self.key, _CLAIM_KIND + cluster + self.encoded[:-SIGNATURE_SIZE], self.encoded[-SIGNATURE_SIZE:])


@dataclass(frozen=True)
class Presence:
    """A presence of the right form; its signature may not have been checked.

    time_ms: milliseconds since the Unix epoch, by the registry's clock. ids: Claim.id of each claim that is held.
    """

    session_key: bytes = field(repr=False)
    time_ms: int
    node: str
    ids: frozenset[bytes] = field(repr=False)
    encoded: bytes = field(repr=False)

    def signed(self, cluster: bytes) -> Signed:
        """What its signature is checked against, in the cluster of this tag."""
        return Signed(
            self.session_key, _PRESENCE_KIND + cluster + self.encoded[:-SIGNATURE_SIZE], self.encoded[-SIGNATURE_SIZE:]
        )

    def is_fresh(self, now_ms: int) -> bool:
        """Whether it counts now: signed at most PRESENCE_FRESH seconds ago, with CLOCK_LEEWAY either way."""
        age = (now_ms - self.time_ms) / 1000
        return -CLOCK_LEEWAY <= age <= PRESENCE_FRESH + CLOCK_LEEWAY

    def places(self, claim: Claim) -> bool:
        """Whether it lists this claim, at the node and for the session key that the claim names."""
        return claim.id in self.ids and (claim.session_key, claim.node) == (self.session_key, self.node)


def sign_claim(
    key: SigningKey, cluster: bytes, *, epoch: int, session_key: bytes, node: str, options: bytes = b""
) -> Claim:
    """Sign a claim. Raises ValueError for an epoch or a size that has no place in it."""
    name = _checked_name(node)
    if len(options) > MAX_OPTIONS:
        raise ValueError(f"options of {len(options)} bytes; at most {MAX_OPTIONS} are allowed")
    body = (
        _CLAIM_START.pack(key.public, _checked_time(epoch), session_key, len(name))
        + name
        + _SHORT.pack(len(options))
        + options
    )
    encoded = body + key.sign(_CLAIM_KIND + cluster + body)
    return Claim(key.public, epoch, session_key, node, options, encoded)


def read_claim(encoded: bytes) -> Claim:
    """The claim in these bytes, unverified. Raises StatementInvalid."""
    if len(encoded) > MAX_CLAIM:
        raise StatementInvalid(f"a claim has at most {MAX_CLAIM} bytes, not {len(encoded)}")
    try:
        key, epoch, session_key, length = _CLAIM_START.unpack_from(encoded)
        node, end = _read_name(encoded, _CLAIM_START.size, length)
        (size,) = _SHORT.unpack_from(encoded, end)
    except struct.error:
        raise StatementInvalid("a claim that is cut off") from None
    end += _SHORT.size
    if len(encoded) != end + size + SIGNATURE_SIZE:
        raise StatementInvalid("a claim of the wrong length")
    if epoch > _MAX_TIME:
        raise StatementInvalid("a claim whose epoch is no time")
    return Claim(key, epoch, session_key, node, encoded[end : end + size], encoded)


def is_believable_epoch(epoch: int, now_ms: int) -> bool:
    """Whether an epoch is at most MAX_EPOCH_AHEAD seconds ahead: others are neither signed nor believed, so that no
    clock and no party locks a key's holder out."""
    return 0 < epoch <= now_ms + MAX_EPOCH_AHEAD * 1000


def sign_presence(key: SigningKey, cluster: bytes, *, time_ms: int, node: str, ids: frozenset[bytes]) -> Presence:
    """Sign a presence with the session's key. Raises ValueError above MAX_CLAIMS claims."""
    name = _checked_name(node)
    if len(ids) > MAX_CLAIMS:
        raise ValueError(f"{len(ids)} claims; one session has at most {MAX_CLAIMS}")
    start = _PRESENCE_START.pack(key.public, _checked_time(time_ms), len(name))
    body = start + name + _SHORT.pack(len(ids)) + b"".join(sorted(ids))
    encoded = body + key.sign(_PRESENCE_KIND + cluster + body)
    return Presence(key.public, time_ms, node, ids, encoded)


def read_presence(encoded: bytes) -> Presence:
    """The presence in these bytes, unverified. Raises StatementInvalid."""
    try:
        session_key, time_ms, length = _PRESENCE_START.unpack_from(encoded)
        node, end = _read_name(encoded, _PRESENCE_START.size, length)
        (count,) = _SHORT.unpack_from(encoded, end)
    except struct.error:
        raise StatementInvalid("a presence that is cut off") from None
    end += _SHORT.size
    if count > MAX_CLAIMS or len(encoded) != end + count * CLAIM_ID_SIZE + SIGNATURE_SIZE:
        raise StatementInvalid("a presence of the wrong length")
    if time_ms > _MAX_TIME:
        raise StatementInvalid("a presence whose time is no time")
    starts = range(end, end + count * CLAIM_ID_SIZE, CLAIM_ID_SIZE)
    ids = frozenset(encoded[at : at + CLAIM_ID_SIZE] for at in starts)
    return Presence(session_key, time_ms, node, ids, encoded)


def sign_greeting(key: SigningKey, cluster: bytes, node: str, certificate: bytes) -> bytes:
    """What HELLO shows to be from the grant's holder and for this node: `certificate` (DER) is the node's, as TLS has
    shown it. A node that sees a grant cannot use it at another one."""
    return key.sign(_greeting(cluster, node, certificate))


def signed_greeting(public_key: bytes, cluster: bytes, node: str, certificate: bytes, signature: bytes) -> Signed:
    """What the signature of a HELLO is checked against."""
    return Signed(public_key, _greeting(cluster, node, certificate), signature)


def _greeting(cluster: bytes, node: str, certificate: bytes) -> bytes:
    name = _checked_name(node)
    return _GREETING_KIND + cluster + bytes([len(name)]) + name + hashlib.sha256(certificate).digest()


def _checked_name(node: str) -> bytes:
    name = node.encode("ascii", errors="replace")
    if not 1 <= len(name) <= MAX_NODE_NAME:
        raise ValueError(f"a node's name has 1 to {MAX_NODE_NAME} characters, not {len(name)}")
    return name


def _checked_time(value: int) -> int:
    if not 0 <= value <= _MAX_TIME:
        raise ValueError(f"{value} is no time in milliseconds")
    return value


def _read_name(encoded: bytes, start: int, length: int) -> tuple[str, int]:
    """A node's name and the offset after it. Raises StatementInvalid."""
    name = encoded[start : start + length]
    if not 1 <= length <= MAX_NODE_NAME or len(name) != length or not name.isascii():
        raise StatementInvalid("a statement that names no node")
    return name.decode("ascii"), start + length
