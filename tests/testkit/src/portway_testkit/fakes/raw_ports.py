"""Accounts of raw ports without a registry: the whole range is one block of this node, as if just reserved."""

import random
from collections.abc import Callable

from portway_relay.config import PortRange
from portway_relay.raw_ports.account import Block, PortAccount
from portway_relay.raw_ports.tickets import Ticket

from portway_testkit.fakes.clock import ManualClock

REST = 60.0


def own_ports(
    ports: PortRange,
    clock: ManualClock,
    *,
    seed: int | None = 1,
    rest: float = REST,
    at_sibling: Callable[[int], str | None] = lambda port: None,
) -> PortAccount:
    """An account whose range is one fresh block. With `seed` None the order of ports is random."""
    chance = None if seed is None else random.Random(seed)
    account = PortAccount(ports, rest, clock, chance, at_sibling=at_sibling)
    account.reserved([Block(ports, fresh=True)], {})
    return account


def signed_by(node: str, *, time_ms: int = 1) -> Callable[[str, int], Ticket]:
    """Makes tickets of a node whose signature nobody checks."""
    return lambda label, port: Ticket(label, port, time_ms, node, f"{node}: {label} {port}".encode())
