"""Places on one machine with emulated distances: network namespaces, the round trips between them, and cuts.

Here: the distances, starting the program that emulates them (delay_network.py), entering a place. Not here: what runs
in the places (portway.py), a map of real regions (regions.py).
"""

import ctypes
import itertools
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from portway_lab.cluster.delay_network import namespace
from portway_lab.cluster.processes import Process, Processes

_PROGRAM = Path(__file__).with_name("delay_network.py")
# Visible in the namespaces only, so two networks may use the same addresses.
_ADDRESS = "10.231.77.{}"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

# The round trip between two regions, in milliseconds.
Distances = Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace; `access` is the round trip to its region's exchange, in milliseconds. `address`: of IPv4; one is
    made by default. `address6`: of IPv6, which it has only then."""

    name: str
    region: str
    access: float = 0.5
    address: str = ""
    address6: str = ""


def round_trip(one: Place, other: Place, distances: Distances) -> float:
    """The round trip between two places, in milliseconds. Raises KeyError when their regions have no distance."""
    if one.region == other.region:
        return one.access + other.access
    pair = (one.region, other.region)
    between = distances[pair] if pair in distances else distances[other.region, one.region]
    return one.access + between + other.access


class Network:
    """A running network."""

    def __init__(self, process: Process, addresses: Mapping[str, str], control: Path) -> None:
        self._process = process
        self._addresses = addresses
        self._control = control

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(self._addresses)

    def address(self, place: str) -> str:
        return self._addresses[place]

    def namespace(self, place: str) -> str:
        return namespace(place, self._process.pid)

    def prefix(self, place: str) -> tuple[str, ...]:
        """The words that run a command in that place when they go before it."""
        return ("ip", "netns", "exec", self.namespace(place))

    def cut(self, source: str, target: str, *, both_ways: bool = True) -> None:
        """Drop the packets from one place to another, silently."""
        self._order("cut", source, target, both_ways)

    def mend(self, source: str, target: str, *, both_ways: bool = True) -> None:
        """Deliver them again."""
        self._order("mend", source, target, both_ways)

    @contextmanager
    def inside(self, place: str) -> Iterator[None]:
        """Inside the block, sockets that this thread creates are in that place; other threads are not affected."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            there = os.open(f"/run/netns/{self.namespace(place)}", os.O_RDONLY)
            try:
                _enter(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _enter(here)
        finally:
            os.close(here)

    def _order(self, verb: str, source: str, target: str, both_ways: bool) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as orders:
            orders.connect(str(self._control))
            orders.send(f"{verb} {source} {target}".encode())
            if both_ways:
                orders.send(f"{verb} {target} {source}".encode())


def start_network(
    processes: Processes, places: Sequence[Place], distances: Distances, *, default_routes: bool = False
) -> Network:
    """Create the places. With `default_routes` they have the one that programs look for to find their own address; what
    is sent to no place is lost. Raises ProcessFailed; check delay_network.why_not() first."""
    addresses = {place.name: place.address or _ADDRESS.format(number) for number, place in enumerate(places, 1)}
    control = processes.folder / "network.control"
    words = ["--default-routes"] if default_routes else []
    for place in places:
        given = [addresses[place.name], *([place.address6] if place.address6 else [])]
        words += ["--place", f"{place.name}={','.join(given)}"]
    for one, other in itertools.combinations(places, 2):
        words += ["--delay", f"{one.name}/{other.name}={round_trip(one, other, distances) / 2}"]
    process = processes.start("network", [sys.executable, _PROGRAM, "--control", control, *words], ready_flag=True)
    processes.wait_ready(process)
    return Network(process, addresses, control)


def _enter(namespace_file: int) -> None:
    if _libc.setns(namespace_file, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
