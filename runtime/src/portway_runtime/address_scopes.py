"""Dialling an address on another party's word: which ones may be dialled, and what that party may learn of it.

A node states its own address, and a registry or another node dials it. Without a rule, a node could have any machine of
their networks dialled, and read from the outcome what is open there. So addresses that are not global are dialled only
where they are expected, and the outcome that is told is one of three; details are for the log of whoever operates the
dialling side. Here: scopes, and the outcomes. Not here: dialling.
"""

import ipaddress
from collections.abc import Collection
from enum import Enum, auto
from typing import Final

from portway_runtime.errors import AddressNotAllowed
from portway_runtime.names import Names, literal_address

# What a dialled party may be told, and all that it may be told.
UNREACHABLE: Final = "unreachable"
NOT_THIS_NODE: Final = "not this node"
NOT_DIALLED: Final = "a private address, which is not dialled"
_OUTCOMES: Final = frozenset({UNREACHABLE, NOT_THIS_NODE, NOT_DIALLED})

_IPV4_IN_IPV6: Final = ipaddress.IPv6Network("64:ff9b::/96")  # NAT64, RFC 6052


class Scope(Enum):
    """How far an address reaches. Everything that is not global and none of the others counts as private."""

    GLOBAL = auto()
    PRIVATE = auto()
    LINK_LOCAL = auto()
    LOOPBACK = auto()


def scope_of(address: str) -> Scope:
    """The scope of an IP address; an IPv4 address within an IPv6 one is what counts. Raises ValueError."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        elif found in _IPV4_IN_IPV6:
            found = ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)
        elif found.sixtofour is not None:
            found = found.sixtofour
    if found.is_loopback or found.is_unspecified:
        return Scope.LOOPBACK
    if found.is_link_local:
        return Scope.LINK_LOCAL
    return Scope.GLOBAL if found.is_global and not found.is_multicast else Scope.PRIVATE


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by what is written: an address, or `localhost` and names below it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        host = host.lower()
        return host == "localhost" or host.endswith(".localhost")


def expected_scopes(hosts: Collection[str]) -> frozenset[Scope]:
    """The scopes that may be dialled by a process with these addresses of its own: global ones, and the scope of each.

    A name other than localhost, and the address that means every one of the machine, say nothing.
    """
    own = {Scope.GLOBAL}
    for host in hosts:
        try:
            if not ipaddress.ip_address(host).is_unspecified:
                own.add(scope_of(host))
        except ValueError:
            if host == "localhost":
                own.add(Scope.LOOPBACK)
    return frozenset(own)


async def allowed_addresses(names: Names, host: str, allowed: Collection[Scope]) -> list[str]:
    """The IP addresses of a host that may be dialled, in the order to try them, at least one.

    Dial these and not the host, whose name may lead elsewhere the next time. Raises AddressNotAllowed, and OSError and
    UnicodeError for a name that does not resolve.
    """
    addresses = [address.host for address in await names.addresses(host)]
    permitted = [address for address in addresses if scope_of(address) in allowed]
    if not permitted:
        named = literal_address(host) is None
        leads = f"{host} leads to {', '.join(addresses)}" if named else host
        raise AddressNotAllowed(f"{leads}: addresses that are not global are dialled only if allowed", named=named)
    return permitted


def outcome_of(failure: str) -> str:
    """What may be told of a failure, whose text is an outcome, or begins with one and a colon."""
    outcome = failure.partition(":")[0]
    return outcome if outcome in _OUTCOMES else UNREACHABLE


def failure_of(error: AddressNotAllowed) -> str:
    """The failure of an address that is not allowed. What a name resolves to here is not told."""
    return f"{UNREACHABLE if error.named else NOT_DIALLED}: {error}"
