"""The caller of a gRPC method: identified by a token on the public port, by a certificate on the mesh port.

Here: making a Caller of either. Not here: which methods it may call (method_roles.py), where it calls from: a port's
connections have addresses (portway_registry.net), and gRPC's peer is the machine itself.
"""

import ipaddress
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from portway_runtime.identities import NodeIdentity, read_identity_pem

from portway_registry.access.invitations import PREFIX, Invitations
from portway_registry.access.tokens import Tokens, bearer_text
from portway_registry.errors import CertificateUntrusted, NotANode
from portway_registry.state.records import InvitationRecord, Role, TokenRecord

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    name: the id of its token or invitation, or the node's name.
    token, invitation, certificate: only the one that belongs to its role is set. pem: the certificate itself.
    """

    role: Role
    name: str
    token: TokenRecord | None = None
    invitation: InvitationRecord | None = None
    certificate: NodeIdentity | None = None
    pem: bytes = b""


class Context(Protocol):
    """The parts of a gRPC call's context that identify its caller."""

    def auth_context(self) -> dict[str, Sequence[bytes]]: ...

    def invocation_metadata(self) -> Any: ...


# Both are set by the interceptor for each call, in the call's own context. The address is there for every caller.
current_caller: ContextVar[Caller] = ContextVar("current_caller")
current_address: ContextVar[Address] = ContextVar("current_address")


class Identify(Protocol):
    """Returns the caller, or raises NotAuthenticated."""

    async def __call__(self, context: Context) -> Caller: ...


def by_token(tokens: Tokens, invitations: Invitations) -> Identify:
    """Identify callers of the public port, by the token or invitation in their metadata."""

    async def identify(context: Context) -> Caller:
        values = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        header = values[0] if values else None
        if (text := bearer_text(header)).startswith(PREFIX):
            invitation = await invitations.authenticate(text)
            return Caller(Role.INVITED, invitation.id, invitation=invitation)
        record = await tokens.authenticate(header)
        return Caller(record.role, record.id, record)

    return identify


def by_certificate(require_current: Callable[[str, int], None], is_refused: Callable[[bytes], bool]) -> Identify:
    """Identify callers of the mesh port, by the node name in the certificate that the handshake has verified.

    `require_current` is called with the name and the time of issue in milliseconds; it raises for a certificate that is
    no longer valid. `is_refused`: whether a certificate (PEM) is from a CA that is trusted no more; the handshake may
    have been long ago.
    """

    async def identify(context: Context) -> Caller:
        chain = context.auth_context().get("x509_pem_cert", ())
        pem = bytes(chain[0]) if chain else b""
        identity = _identity(pem) if chain else None
        if identity is None:
            raise NotANode
        if is_refused(pem):
            raise CertificateUntrusted(identity.node)
        require_current(identity.node, identity.issued_ms)
        return Caller(Role.NODE, identity.node, certificate=identity, pem=pem)

    return identify


@lru_cache(maxsize=4096)
def _identity(pem: bytes) -> NodeIdentity | None:
    """The identity in a node's certificate, None for another certificate. Cached, because reading one takes 0.1 ms."""
    return read_identity_pem(pem)
