"""The key exchange groups and cipher suites of Portway's own TLS endpoints. They are named here and nowhere else.

OpenSSL's defaults let a peer choose finite-field groups: one handshake with ffdhe8192 takes as long as some three
hundred with X25519, and costs the peer a canned ClientHello (docs/decisions/0053).

Not here: which group a connection gets (the relay's ingress), and gRPC, whose library has groups of its own.
"""

import ssl
from enum import IntEnum
from typing import Final


class Group(IntEnum):
    """A key exchange group, by its number in TLS (RFC 8446 §4.2.7)."""

    P256 = 23
    X25519 = 29


# Of nodes, towards visitors and on lanes; preferred first. Every library offers one of them. OpenSSL keeps 3 KB more
# for a connection with P-256.
GROUPS: Final = (Group.X25519, Group.P256)

# Of TLS 1.2: ECDHE and AEAD. All suites of TLS 1.3 are both.
_SUITES: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_OPENSSL_NAMES: Final = {Group.P256: "prime256v1", Group.X25519: "X25519"}
# In a hello: the group and the length of a key share.
_X25519_SHARE: Final = b"\x00\x1d\x00\x20"


def restrict(context: ssl.SSLContext, group: Group) -> None:
    """Let `context` use this group, and suites with ECDHE and AEAD alone.

    P-256 is then the only group. X25519 is the only one where `ssl` can set it, and else the preferred one of OpenSSL's
    own list: a server must see to it that the client's hello leads to no other.
    """
    context.set_ciphers(_SUITES)
    try:
        context.set_ecdh_curve(_OPENSSL_NAMES[group])
    except ssl.SSLError:  # Python 3.11 takes only curves on which OpenSSL signs too
        if group is not Group.X25519:
            raise


def restrict_client(context: ssl.SSLContext) -> None:
    """As `restrict`, for a client that drops a server which asks for another group than that of the client's key share:
    X25519 where OpenSSL sends a share for it by itself, else P-256 alone, as under FIPS rules."""
    context.set_ciphers(_SUITES)
    if _X25519_SHARE not in hello_of(context):
        context.set_ecdh_curve(_OPENSSL_NAMES[Group.P256])


def hello_of(context: ssl.SSLContext) -> bytes:
    """The ClientHello, in its records, that a client's context begins a handshake with."""
    sent = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="check").do_handshake()
    except ssl.SSLWantReadError:
        pass
    return sent.read()
