"""Ports that are wanted, and programs that have them already.

Here: deciding. Not here: who listens on which (machine.py).
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wanted:
    """An address to listen at. `protocol` is "tcp" or "udp"; `address` "" means every one of the machine."""

    protocol: str
    address: str
    port: int
    purpose: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A program that listens. `program` is empty when the system does not say which."""

    protocol: str
    address: str
    port: int
    program: str


def conflicts(wanted: Iterable[Wanted], holders: Sequence[Holder]) -> list[str]:
    """A sentence for each wanted address that another program has."""
    told = []
    for one in wanted:
        for holder in holders:
            if (holder.protocol, holder.port) == (one.protocol, one.port) and overlap(one.address, holder.address):
                by = holder.program or "another user's program"
                told.append(f"{one.protocol.upper()} port {one.port} ({one.purpose}) is taken by {by}")
                break
    return told


def overlap(wanted: str, held: str) -> bool:
    """Whether a socket at `held` has connections to `wanted`, of which "" is every address."""
    if not wanted:
        return True
    a, b = ipaddress.ip_address(wanted), ipaddress.ip_address(held)
    if isinstance(b, ipaddress.IPv6Address) and b.ipv4_mapped is not None:
        b = b.ipv4_mapped
    # A socket at :: takes IPv4 as well, unless it was told not to, which nothing shows.
    return a == b or a.is_unspecified or (b.is_unspecified and (b.version == 6 or a.version == 4))
