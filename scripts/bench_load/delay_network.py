"""Program: network namespaces whose packets to each other are late, as if they were far apart.

usage: delay_network.py --ready-file FILE --place NAME=ADDRESS ... --delay NAME-NAME=MS ...   (one way, milliseconds)

Each place is a namespace with a TUN device; this process carries the packets from device to device and holds each back
for as long as its pair says. Handshakes, losses and windows then behave as on a real path, which a proxy that
delays bytes cannot do. Needs root and /dev/net/tun. SIGTERM takes the namespaces away.
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

TUN_DEVICE = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_PACKETS_AT_ONCE = 32  # then look at the clock again
_LARGEST_PACKET = 65_536
_PR_SET_TIMERSLACK = 29
_SLACK_NS = 1_000  # the default of 50 µs would show


def why_not() -> str | None:
    """What keeps this machine from emulating round trips; None when it can."""
    if os.getuid() != 0:
        return "emulated round trips need root"
    if not TUN_DEVICE.exists():
        return f"emulated round trips need {TUN_DEVICE}"
    probe = subprocess.run(["ip", "netns", "list"], capture_output=True, check=False)
    return None if probe.returncode == 0 else "emulated round trips need ip netns (Debian: iproute2)"


def namespace(place: str, owner: int) -> str:
    """The namespace's name; with the owner's pid in it, two runs side by side do not meet."""
    return f"portway-{owner}-{place}"


class Fabric:
    """The devices, and the packets on their way."""

    def __init__(self, places: dict[str, str], delays: dict[frozenset[str], float]) -> None:
        self._places = places
        self._delays = delays
        self._devices: dict[int, str] = {}
        self._by_address: dict[bytes, int] = {}
        self._order = itertools.count()
        self._late: list[tuple[float, int, int, bytes]] = []

    def open(self) -> None:
        for number, (place, address) in enumerate(self._places.items()):
            name = namespace(place, os.getppid())
            _ip("netns", "add", name)
            device = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK)
            link = f"pw{os.getpid()}n{number}"
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", link.encode(), _IFF_TUN | _IFF_NO_PI))
            _ip("link", "set", link, "netns", name)
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", link, "txqueuelen", "5000", "up")
            self._devices[device] = place
            self._by_address[socket.inet_aton(address)] = device

    def close(self) -> None:
        for place in self._places:
            subprocess.run(["ip", "netns", "del", namespace(place, os.getppid())], capture_output=True, check=False)

    def run(self) -> None:
        while True:
            now = time.monotonic()
            while self._late and self._late[0][0] <= now:
                _, _, device, packet = heapq.heappop(self._late)
                try:
                    os.write(device, packet)
                except OSError:
                    pass  # a full or vanished device loses packets, as networks do
            wait = max(0.0, self._late[0][0] - time.monotonic()) if self._late else None
            readable, _, _ = select.select(list(self._devices), [], [], wait)
            for device in readable:
                self._take(device)

    def _take(self, device: int) -> None:
        for _ in range(_PACKETS_AT_ONCE):
            try:
                packet = os.read(device, _LARGEST_PACKET)
            except BlockingIOError:
                return
            target = self._by_address.get(packet[16:20]) if packet[0] >> 4 == 4 else None
            if target is None:
                continue
            delay = self._delays.get(frozenset((self._devices[device], self._devices[target])), 0.0)
            heapq.heappush(self._late, (time.monotonic() + delay, next(self._order), target, packet))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ready-file", type=Path, required=True)
    parser.add_argument("--place", action="append", required=True)
    parser.add_argument("--delay", action="append", default=[])
    arguments = parser.parse_args()
    places = dict(text.split("=", 1) for text in arguments.place)
    delays = {}
    for text in arguments.delay:
        pair, _, milliseconds = text.partition("=")
        delays[frozenset(pair.split("-", 1))] = float(milliseconds) / 1000
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _SLACK_NS, 0, 0, 0)
    fabric = Fabric(places, delays)
    try:
        fabric.open()
        arguments.ready_file.write_text("{}")
        fabric.run()
    finally:
        fabric.close()


if __name__ == "__main__":
    main()
