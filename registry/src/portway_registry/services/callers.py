"""Who calls: by an API token on the public port, by a certificate on the mesh port.

Here: reading both into a Caller, and where a caller's address is. Not here: what a caller may do (roles.py).
"""

import ipaddress
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import unquote

from cryptography import x509
from portway_runtime.identities import NodeIdentity, read_identity

from portway_registry.access.invitations import PREFIX, Invitations
from portway_registry.access.tokens import Tokens, bearer_text
from portway_registry.errors import NotANode
from portway_registry.state.records import InvitationRecord, Role, TokenRecord

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Caller:
    """`name` is the token's or the invitation's id, or the node's name; the rest is of that role alone."""

    role: Role
    name: str
    token: TokenRecord | None = None
    invitation: InvitationRecord | None = None
    certificate: NodeIdentity | None = None


class Context(Protocol):
    """What is asked of a gRPC call's context."""

    def peer(self) -> str: ...

    def auth_context(self) -> dict[str, Sequence[bytes]]: ...

    def invocation_metadata(self) -> Any: ...


# Set for each call by the guard, in the call's own context.
current_caller: ContextVar[Caller] = ContextVar("current_caller")


class Identify(Protocol):
    """Tells who calls, or raises a NotAuthenticated."""

    async def __call__(self, context: Context) -> Caller: ...


def by_token(tokens: Tokens, invitations: Invitations) -> Identify:
    """Callers of the public port."""

    async def identify(context: Context) -> Caller:
        found = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        shown = found[0] if found else None
        if (text := bearer_text(shown)).startswith(PREFIX):
            invitation = await invitations.authenticate(text)
            return Caller(Role.INVITED, invitation.id, invitation=invitation)
        record = await tokens.authenticate(shown)
        return Caller(record.role, record.id, record)

    return identify


def by_certificate(demand_standing: Callable[[str, int], None]) -> Identify:
    """Callers of the mesh port: the handshake has verified the certificate, its one node name is who calls.

    `demand_standing` is given the name and when the certificate was issued, and raises for one that counts no more.
    """

    async def identify(context: Context) -> Caller:
        shown = context.auth_context().get("x509_pem_cert", ())
        certified = _certified(bytes(shown[0])) if shown else None
        if certified is None:
            raise NotANode
        demand_standing(certified.node, certified.issued_ms)
        return Caller(Role.NODE, certified.node, certificate=certified)

    return identify


@lru_cache(maxsize=4096)
def _certified(pem: bytes) -> NodeIdentity | None:
    """What a node's certificate says, None for any other; remembered, for nodes call often and reading takes 0.1 ms."""
    try:
        return read_identity(x509.load_pem_x509_certificate(pem))
    except ValueError:
        return None


def peer_address(context: Context) -> Address | None:
    """The caller's address; an IPv4 address that came in over IPv6 is told as IPv4."""
    kind, _, rest = context.peer().partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    host = unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
