"""A hostile client as a process of its own: one lane, and the same frames on it at a bounded rate of bytes.

Here: the program. Not here: connections without TLS (attacker.py), what must not suffer (siege.py). A lane that the
node closes is opened again, and what the node sends is read and counted.
"""

import json
import socket
import ssl
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from portway_proto.wire.limits import LINK_ALPN

from portway_testkit.visitors.controlled_program import ControlledProgram, run_at_rate
from portway_testkit.visitors.visiting import connect_tls, tls_context

_READ: Final = 65_536
RECORD: Final = 22  # bytes that TLS 1.3 adds to each record
# Seconds until a lane that was refused is dialled again.
_PAUSE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Flood:
    """`first` once on each lane, then `frames` repeatedly, each time in a TLS record and a segment of its own.

    rate: bytes per second, with those of TLS, as long as the node takes them.
    """

    host: str
    port: int
    server_name: str
    ca: str
    rate: int
    frames: str  # in hexadecimal
    first: str = ""


@dataclass(frozen=True, slots=True)
class FloodReport:
    """What happened since the process was started, in bytes and lanes."""

    sent: int
    received: int
    lanes: int


class Flooder(ControlledProgram[FloodReport]):
    """`with Flooder(flood) as flooder:` waits; `go()` floods until `rest()`.

    A rest leaves the lane open: the next round goes on where this one ended, with no budget of a new lane.
    """

    def __init__(self, flood: Flood) -> None:
        super().__init__("portway_testkit.visitors.flooder", flood, FloodReport)


class _Program:
    def __init__(self, flood: Flood) -> None:
        self._flood = flood
        self._tls = tls_context(Path(flood.ca), LINK_ALPN)
        self._frames = bytes.fromhex(flood.frames)
        self._lane: ssl.SSLSocket | None = None
        self._sent = self._received = self._lanes = 0

    def run(self) -> None:
        rate = self._flood.rate
        run_at_rate(self._flow, self._report, rate=rate, most=rate / 2)
        self._close()

    def _flow(self, due: int) -> int:
        """Send up to `due` bytes, and read. Returns the bytes that were sent."""
        began = self._sent
        try:
            if self._lane is None:
                self._open()
            assert self._lane is not None
            self._read(self._lane)
            while self._sent - began < due:
                self._sent += self._lane.send(self._frames) + RECORD
        except ssl.SSLWantWriteError:
            pass
        except OSError:
            self._close()
            time.sleep(_PAUSE)
        return self._sent - began

    def _open(self) -> None:
        flood = self._flood
        self._lane = connect_tls(self._tls, (flood.host, flood.port), flood.server_name)
        self._lanes += 1
        self._lane.sendall(bytes.fromhex(flood.first))
        self._lane.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lane.setblocking(False)

    def _read(self, lane: ssl.SSLSocket) -> None:
        try:
            while True:
                got = len(lane.recv(_READ))
                if not got:
                    raise ConnectionResetError
                self._received += got
        except ssl.SSLWantReadError:
            pass

    def _close(self) -> None:
        if self._lane is not None:
            self._lane.close()
            self._lane = None

    def _report(self) -> None:
        print(json.dumps(asdict(FloodReport(self._sent, self._received, self._lanes))), flush=True)


if __name__ == "__main__":
    _Program(Flood(**json.loads(sys.stdin.readline()))).run()
