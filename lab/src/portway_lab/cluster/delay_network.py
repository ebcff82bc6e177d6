"""Program: network namespaces whose packets to each other are delayed, as if they were far apart.

usage: delay_network.py --ready-file FILE --control SOCKET --place NAME=ADDRESS[,ADDRESS] ... --delay NAME/NAME=MS ...
           [--default-routes]

Delays are one way, in milliseconds. Each place is a namespace with a TUN device; this process moves packets from device
to device and delays each by the delay of its pair. Handshakes, losses and windows then behave as on a real path, which
a proxy that delays bytes cannot achieve. `cut A B` and `mend A B`, as datagrams to the control socket, drop the packets
from A to B and deliver them again. Needs root and /dev/net/tun. SIGTERM removes the namespaces.

Here: devices and packets. Not here: starting it, entering the namespaces (network.py).
"""

import argparse
import ctypes
import fcntl
import heapq
import itertools
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from portway_runtime.secret_files import replace_file

TUN_DEVICE = Path("/dev/net/tun")
_NAMESPACES = Path("/run/netns")
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_PACKETS_AT_ONCE = 32  # read from a device before packets that are due are written
_LARGEST_PACKET = 65_536
_LARGEST_ORDER = 256
_LOOK_EVERY = 1.0  # seconds: a signal that comes just before select is seen after it
_PR_SET_TIMERSLACK = 29
_SLACK_NS = 1_000  # the default of 50 µs would be measurable


def why_not() -> str | None:
    """The reason why this machine cannot emulate round trips, None if it can. Creates a namespace and a device to
    test."""
    if os.getuid() != 0:
        return "emulated round trips need root (network namespaces, TUN devices)"
    probe = namespace("probe", os.getpid())
    try:
        made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "emulated round trips need ip (Debian: apt-get install iproute2)"
    if made.returncode != 0:
        return f"emulated round trips need network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    try:
        os.close(_make_device(f"pw{os.getpid()}probe"))
    except OSError as error:
        return f"emulated round trips need TUN devices: {TUN_DEVICE}: {error.strerror}"
    return None


def namespace(place: str, network: int) -> str:
    """The name of a place's namespace. It holds the pid of its network, so that two networks can run side by side."""
    return f"portway-{network}-{place}"


class Fabric:
    """The devices, and the packets that are delayed."""

    def __init__(
        self,
        places: dict[str, list[str]],
        delays: dict[frozenset[str], float],
        control: socket.socket,
        *,
        default_routes: bool,
    ) -> None:
        self._places = places
        self._default_routes = default_routes
        self._delays = delays
        self._control = control
        self._cut: set[tuple[str, str]] = set()
        self._devices: dict[int, str] = {}
        self._by_address: dict[bytes, int] = {}
        self._order = itertools.count()
        self._delayed: list[tuple[float, int, int, bytes]] = []

    def open(self) -> None:
        _sweep()
        for number, (place, addresses) in enumerate(self._places.items()):
            name = namespace(place, os.getpid())
            _ip("netns", "add", name)
            link = f"pw{os.getpid()}n{number}"
            device = _make_device(link)
            _ip("link", "set", link, "netns", name)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", link, "txqueuelen", "5000", "up")
            for address in addresses:
                of_ipv6 = ":" in address
                # Nobody else can have it: it is to be used at once.
                length, family, use = ("64", "-6", ["nodad"]) if of_ipv6 else ("24", "-4", [])
                _ip("-n", name, family, "addr", "add", f"{address}/{length}", "dev", link, *use)
                if self._default_routes:
                    _ip("-n", name, family, "route", "add", "default", "dev", link)
                self._by_address[socket.inet_pton(socket.AF_INET6 if of_ipv6 else socket.AF_INET, address)] = device
            self._devices[device] = place

    def close(self) -> None:
        for place in self._places:
            _remove(namespace(place, os.getpid()))

    def run(self) -> None:
        sources = [*self._devices, self._control.fileno()]
        while True:
            now = time.monotonic()
            while self._delayed and self._delayed[0][0] <= now:
                _, _, device, packet = heapq.heappop(self._delayed)
                try:
                    os.write(device, packet)
                except OSError:
                    pass  # a full or removed device loses packets, as networks do
            wait = max(0.0, self._delayed[0][0] - time.monotonic()) if self._delayed else _LOOK_EVERY
            readable, _, _ = select.select(sources, [], [], wait)
            for source in readable:
                if source in self._devices:
                    self._read(source)
                else:
                    self._execute(self._control.recv(_LARGEST_ORDER).decode())

    def _read(self, device: int) -> None:
        for _ in range(_PACKETS_AT_ONCE):
            try:
                packet = os.read(device, _LARGEST_PACKET)
            except BlockingIOError:
                return
            target = self._by_address.get(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])
            if target is None:
                continue
            pair = self._devices[device], self._devices[target]
            if pair in self._cut:
                continue
            delay = self._delays.get(frozenset(pair), 0.0)
            heapq.heappush(self._delayed, (time.monotonic() + delay, next(self._order), target, packet))

    def _execute(self, order: str) -> None:
        verb, source, target = order.split()
        if verb == "cut":
            self._cut.add((source, target))
        else:
            self._cut.discard((source, target))


def _make_device(link: str) -> int:
    device = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", link.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(device)
        raise
    return device


def _sweep() -> None:
    """Remove the namespaces of networks that were killed."""
    if not _NAMESPACES.is_dir():
        return
    for path in _NAMESPACES.glob("portway-*-*"):
        owner = path.name.split("-")[1]
        try:
            orphaned = b"delay_network" not in Path(f"/proc/{owner}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            orphaned = True
        if orphaned and not path.name.endswith("-probe"):  # another process may be in why_not() now
            _remove(path.name)


def _remove(name: str) -> None:
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ready-file", type=Path, required=True, help="is written when the namespaces are there")
    parser.add_argument("--control", type=Path, required=True, help="socket for cut and mend")
    parser.add_argument("--default-routes", action="store_true", help="every address is looked for in this network")
    parser.add_argument("--place", action="append", required=True, metavar="NAME=ADDRESS[,ADDRESS]")
    parser.add_argument("--delay", action="append", default=[], metavar="NAME/NAME=MS", help="one way")
    arguments = parser.parse_args()
    named = (text.split("=", 1) for text in arguments.place)
    places = {name: addresses.split(",") for name, addresses in named}
    delays = {}
    for text in arguments.delay:
        pair, _, milliseconds = text.rpartition("=")
        one, _, other = pair.partition("/")
        delays[frozenset((one, other))] = float(milliseconds) / 1000
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _SLACK_NS, 0, 0, 0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
        control.bind(str(arguments.control))
        fabric = Fabric(places, delays, control, default_routes=arguments.default_routes)
        try:
            fabric.open()
            replace_file(arguments.ready_file, b"{}", durable=False)
            fabric.run()
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            fabric.close()


if __name__ == "__main__":
    main()
