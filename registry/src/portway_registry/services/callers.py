"""Who calls: by an API token on the public port, by a certificate on the mesh port.

Here: reading both into a Caller, and where a caller's address is. Not here: what a caller may do (roles.py).
"""

import ipaddress
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote

from portway_registry.errors import NotANode
from portway_registry.names import node_of_server_name
from portway_registry.records import Role, TokenRecord
from portway_registry.tokens import TokenCheck

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Caller:
    """`name` is the token's id, or the node's name; `token` is None for nodes."""

    role: Role
    name: str
    token: TokenRecord | None = None


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


def by_token(check: TokenCheck) -> Identify:
    """Callers of the public port."""

    async def identify(context: Context) -> Caller:
        found = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        record = await check.authenticate(found[0] if found else None)
        return Caller(record.role, record.id, record)

    return identify


async def by_certificate(context: Context) -> Caller:
    """Callers of the mesh port: the handshake has verified the certificate, its one node name is who calls."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    nodes = {node for name in names if (node := node_of_server_name(name.decode("ascii", "replace"))) is not None}
    if len(nodes) != 1:
        raise NotANode
    return Caller(Role.NODE, nodes.pop())


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
