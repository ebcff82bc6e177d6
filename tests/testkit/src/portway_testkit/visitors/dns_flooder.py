"""A flood of DNS queries as a process of its own: random names, from many networks, at a bounded rate.

Here: the program. Not here: what must not suffer (siege.py). Networks are those of 127.0.0.0/8, so that no rate of a
single one is what bounds the flood.
"""

import json
import random
import socket
import struct
import sys
from dataclasses import asdict, dataclass
from typing import Final

from portway_testkit.visitors.controlled_program import ControlledProgram, run_at_rate

_NAMES: Final = 20_000
_HEADER: Final = struct.Struct("!6H")
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"
# EDNS twice, which servers have to refuse: what they do not expect costs them most.
_OPT: Final = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"


@dataclass(frozen=True, slots=True)
class DnsFlood:
    """Queries per second for `<random>.<zone>` to a server, from so many networks. odd: with EDNS twice."""

    host: str
    port: int
    zone: str
    rate: int
    networks: int = 100
    odd: bool = False


@dataclass(frozen=True, slots=True)
class DnsFloodReport:
    """What happened since the process was started."""

    sent: int
    received: int


class DnsFlooder(ControlledProgram[DnsFloodReport]):
    """`with DnsFlooder(flood) as flooder:` waits; `go()` floods until `rest()`."""

    def __init__(self, flood: DnsFlood) -> None:
        super().__init__("portway_testkit.visitors.dns_flooder", flood, DnsFloodReport)


class _Program:
    def __init__(self, flood: DnsFlood) -> None:
        self._flood = flood
        self._server = (flood.host, flood.port)
        self._sockets = [_socket_of(number) for number in range(flood.networks)]
        self._sent = self._received = 0
        zone = b"".join(bytes([len(part)]) + part.encode() for part in flood.zone.split("."))
        rest = zone + b"\0\0\x01\0\x01" + _OPT * (2 if flood.odd else 1)
        head, letters = _HEADER.pack(1, 0x0100, 1, 0, 0, 2 if flood.odd else 1), random.Random(1)
        labels = ("".join(letters.choices(_LETTERS, k=16)).encode() for _ in range(_NAMES))
        self._queries = [head + b"\x10" + label + rest for label in labels]

    def run(self) -> None:
        rate = self._flood.rate
        run_at_rate(self._ask, self._report, rate=rate, most=rate / 20)

    def _ask(self, due: int) -> int:
        for _ in range(due):
            self._query()
        return due

    def _query(self) -> None:
        sock = self._sockets[self._sent % len(self._sockets)]
        try:
            sock.sendto(self._queries[self._sent % _NAMES], self._server)
            self._sent += 1
            while True:
                sock.recv(512)
                self._received += 1
        except BlockingIOError:
            pass

    def _report(self) -> None:
        print(json.dumps(asdict(DnsFloodReport(self._sent, self._received))), flush=True)


def _socket_of(number: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((f"127.{1 + number // 200}.{number % 200}.1", 0))
    sock.setblocking(False)
    return sock


if __name__ == "__main__":
    _Program(DnsFlood(**json.loads(sys.stdin.readline()))).run()
