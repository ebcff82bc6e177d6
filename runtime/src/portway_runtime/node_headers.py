"""The PROXY header that a node writes in front of a connection which it passes on to a registry, and its proof.

A registry believes the address in it, so the header is bound to everything that could make it another one's: the node
that wrote it, the replica that it is for, the time, and a number that is used once. Pure functions over bytes. Not
here: where keys come from, which times are fresh, and which numbers were used (the registry's).
"""

import hmac
import struct
from dataclasses import dataclass
from typing import Final

from portway_runtime.endpoints import Endpoint
from portway_runtime.proxy_protocol import ProxyHeader, encode_v2

# The TLV that holds the proof; 0xE0 to 0xEF are for applications (section 2.2 of the PROXY protocol).
PROOF: Final = 0xE1
KEY_SIZE: Final = 32
NONCE_SIZE: Final = 16
# Characters of a node's and of a replica's name. The proof's length tells the node's.
MAX_NAME: Final = 80

_FORM: Final = struct.Struct(f"!Q{NONCE_SIZE}s32s")  # time, number, code; the node's name follows
_KEY_CONTEXT: Final = b"portway-node-header-key-1\0"
_CONTEXT: Final = b"portway-node-header-1\0"


@dataclass(frozen=True, slots=True)
class Proof:
    """Who wrote a header, when (milliseconds since the Unix epoch), and the code that proves it; not checked."""

    node: str
    time_ms: int
    nonce: bytes
    code: bytes


def node_key(secret: bytes, node: str, since_ms: int) -> bytes:
    """The key of one node, made of the cluster's secret. It is another one for each time that the name was given to a
    node (`since_ms`)."""
    return hmac.digest(secret, _KEY_CONTEXT + struct.pack("!q", since_ms) + node.encode(), "sha256")


def write_header(
    key: bytes, node: str, replica: str, source: Endpoint, destination: Endpoint, time_ms: int, nonce: bytes
) -> bytes:
    """The header of `node` for a connection from `source` that came to it at `destination`. `nonce`: NONCE_SIZE random
    bytes. Raises ValueError for a host that is not an IP address."""
    bare = ProxyHeader(source, destination)
    code = _code(key, node, replica, time_ms, nonce, bare)
    proof = _FORM.pack(time_ms, nonce, code) + node.encode()
    return encode_v2(ProxyHeader(source, destination, ((PROOF, proof),)))


def read_proof(header: ProxyHeader) -> Proof | None:
    """The proof in a header; None for a header without one, or with one of another form."""
    if header.source is None or header.destination is None:
        return None
    found = [value for kind, value in header.tlvs if kind == PROOF]
    if len(found) != 1 or not _FORM.size < len(found[0]) <= _FORM.size + MAX_NAME:
        return None
    time_ms, nonce, code = _FORM.unpack_from(found[0])
    try:
        node = found[0][_FORM.size :].decode("ascii")
    except UnicodeDecodeError:
        return None
    return Proof(node, time_ms, nonce, code)


def is_proved(proof: Proof, key: bytes, replica: str, header: ProxyHeader) -> bool:
    """Whether the holder of `key` wrote the addresses of this header for this replica."""
    bare = ProxyHeader(header.source, header.destination)
    return hmac.compare_digest(_code(key, proof.node, replica, proof.time_ms, proof.nonce, bare), proof.code)


def _code(key: bytes, node: str, replica: str, time_ms: int, nonce: bytes, bare: ProxyHeader) -> bytes:
    names = b"".join(struct.pack("!H", len(name)) + name for name in (node.encode(), replica.encode()))
    return hmac.digest(key, _CONTEXT + struct.pack("!Q", time_ms) + nonce + names + encode_v2(bare), "sha256")
