"""A tunnel in use while its node is attacked: its speed with and without the attack, in turns, and the node's memory.

Here: a download without end, rounds that are compared with their neighbours, the memory of a process. Not here: the
attacks (attacker.py).
"""

import os
import random
import socket
import statistics
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

import pytest
from portway.tunnel import Tunnel

from portway_testkit.visitors.attacker import Attack, Attacker, AttackReport
from portway_testkit.visitors.dns_flooder import DnsFlood, DnsFlooder, DnsFloodReport
from portway_testkit.visitors.flooder import Flood, Flooder, FloodReport
from portway_testkit.visitors.visiting import TIMEOUT, receive, visit

# What the local server sends repeatedly. A short block would hide lost bytes.
_BLOCK: Final = random.Random(1).randbytes(256 * 1024)
_TWICE: Final = 2 * _BLOCK
_ROUND: Final = 0.5
_SETTLING: Final = 0.15
# How many times as long attacks last, which scripts/attack sets.
LONGER: Final = int(os.environ.get("PORTWAY_ATTACK_LONGER", "1"))
# On a busy machine one pair of rounds says little: the median of this many is taken, and of more while it is too low.
_PAIRS: Final = 5 * LONGER
_MOST_PAIRS: Final = 4 * _PAIRS
# A tunnel in use keeps at least this share of its speed, whatever visitors do.
_ENOUGH: Final = 0.8
# Of tests that besiege. The node, its client and a process that attacks it start first, and rounds follow, of which
# there are four times as many where the machine is busy.
MARKS: Final = [pytest.mark.shares_sockets, pytest.mark.timeout(400)]
_CHECKED_BYTES: Final = 64 * 1024  # of a new visitor's download
# Of the registry, at the node's public port. Its certificate is for others: attackers do not mind.
REGISTRY_NAME: Final = "registry.localhost"


def endless(sock: socket.socket) -> None:
    """A local server that sends until its visitor has gone."""
    while True:
        sock.sendall(_BLOCK)


class Checked:
    """Checks the bytes of `endless` from its first byte on: none lost, none repeated, none foreign."""

    def __init__(self) -> None:
        self.read = 0

    def take(self, piece: bytes | memoryview) -> None:
        """Check the next bytes. Raises AssertionError."""
        # Compared in place: copies would slow the download.
        assert _TWICE.startswith(piece, self.read % len(_BLOCK)), f"a wrong byte behind {self.read} right ones"
        self.read += len(piece)


class Download:
    """`with Download(tunnel, ca) as download:` reads what `endless` sends, as fast as it comes, and checks it."""

    def __init__(self, tunnel: Tunnel, ca: Path) -> None:
        self._socket = visit(tunnel, ca)
        self._checked = Checked()
        self._wrong: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="download")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def speed(self) -> float:
        """The speed over one round, in MB per second, above 0. Raises the error that ended the download."""
        began, before = time.monotonic(), self._checked.read
        time.sleep(_ROUND)
        if self._wrong is not None:
            raise self._wrong
        return max(self._checked.read - before, 1) / (time.monotonic() - began) / 1e6

    def _run(self) -> None:
        room = memoryview(bytearray(len(_BLOCK)))
        try:
            while size := self._socket.recv_into(room):
                self._checked.take(room[:size])
            raise EOFError("the download has ended")
        except (OSError, EOFError, AssertionError) as error:
            self._wrong = error


class Reins(Protocol):
    """An attack that can be started and stopped repeatedly."""

    def go(self) -> object: ...

    def rest(self) -> object: ...


@dataclass(frozen=True, slots=True)
class Figures:
    """Median speeds in MB per second; memory in MiB, before and at most."""

    quiet: float
    attacked: float
    ratio: float
    memory_before: float
    memory_most: float

    @property
    def grown(self) -> float:
        return self.memory_most - self.memory_before

    def __str__(self) -> str:
        return (
            f"{self.ratio:.2f} x: {self.attacked:.0f} MB/s under attack, {self.quiet:.0f} in peace; "
            f"{self.grown:.0f} MiB more than {self.memory_before:.0f}"
        )


def besiege(
    download: Download,
    reins: Reins,
    node: int,
    enough: float,
    *,
    begun: Callable[[], object] = lambda: None,
    during: Callable[[], object],
) -> Figures:
    """Attack and leave in peace in turn. `node` is the process whose memory is watched, `enough` the ratio that is
    demanded: less is looked at twice. In each round of the attack `begun` returns when it has begun, and `during` is
    called after the measurement."""
    reins.rest()
    memory_before = memory_most = memory_of(node)
    quiet = [_settled(download)]
    attacked: list[float] = []
    ratios: list[float] = []
    while len(ratios) < _PAIRS or (statistics.median(ratios) < enough and len(ratios) < _MOST_PAIRS):
        reins.go()
        begun()
        attacked.append(_settled(download))
        memory_most = max(memory_most, memory_of(node))
        during()
        reins.rest()
        quiet.append(_settled(download))
        # Where neighbours take the processors the two may differ by a factor: halfway between them is their geometric
        # mean. Their sum is that of the higher one, and an attack that costs nothing would seem to slow the download.
        ratios.append(attacked[-1] / statistics.geometric_mean(quiet[-2:]))
    return Figures(
        statistics.median(quiet), statistics.median(attacked), statistics.median(ratios), memory_before, memory_most
    )


def memory_of(process: int) -> float:
    """The resident memory of a process, in MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


def processor_time_of(process: int) -> float:
    """The seconds that a process has run, in its own code and in the kernel."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def metrics_at(address: str) -> dict[str, float]:
    """Every sample of a node's /metrics by its name, labels included, without the prefix."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name.removeprefix("portway_relay_"): float(value) for name, _, value in (s.rpartition(" ") for s in lines)}


def _settled(download: Download) -> float:
    """The speed once the change has taken effect."""
    time.sleep(_SETTLING)
    return download.speed()


@dataclass(frozen=True, slots=True)
class Besieged:
    """The node, and a tunnel whose local server sends without end."""

    host: str
    port: int
    server_name: str
    admin: str  # host:port of its metrics
    pid: int
    tunnel: Tunnel
    raw_ports: range
    environment: dict[str, str]  # of a client whose token allows thousands of tunnels
    ca: Path
    pki: Path
    mesh: str  # host:port of the registry for nodes
    dns: str = ""  # host:port of its DNS server, if it has one

    def metrics(self) -> dict[str, float]:
        return metrics_at(self.admin)

    def busy(self, seconds: float) -> float:
        """The share of a core that the node uses in so many seconds from now on."""
        began, before = time.monotonic(), processor_time_of(self.pid)
        time.sleep(seconds)
        return (processor_time_of(self.pid) - before) / (time.monotonic() - began)

    def memory(self) -> float:
        """The node's resident memory, in MiB."""
        return memory_of(self.pid)

    def served(self) -> None:
        """Visit the tunnel, and check the first bytes."""
        checked = Checked()
        with visit(self.tunnel, self.ca) as visitor:
            while checked.read < _CHECKED_BYTES:
                checked.take(visitor.recv(_CHECKED_BYTES) or b"the end")

    def answers(self, sent: bytes) -> bytes:
        """Everything that a visitor reads after it has sent these bytes."""
        with socket.create_connection((self.host, self.port), TIMEOUT) as visitor:
            visitor.sendall(sent)
            return receive(visitor)

    def under(
        self,
        attack: Attack,
        *,
        begun: Callable[[], object] = lambda: None,
        during: Callable[[], object] | None = None,
    ) -> tuple[Figures, AttackReport]:
        """Measure the tunnel's speed with and without an attack. In each round of it, `during` runs: by default a new
        visitor must be served.
        """
        during = during or self.served
        with Attacker(attack) as attacker, Download(self.tunnel, self.ca) as download:
            figures = besiege(download, attacker, self.pid, _ENOUGH, begun=begun, during=during)
            attacker.go()
            during()
            report = attacker.rest()
        return figures, report

    def flooded_with_queries(self, flood: DnsFlood) -> tuple[Figures, DnsFloodReport, float]:
        """Measure the tunnel's speed with and without a flood of DNS queries, while new visitors are served; and the
        share of its event loop that DNS took, the median of all rounds."""
        shares: list[float] = []
        begun: list[tuple[float, float]] = []

        def begin() -> None:
            begun.append((time.monotonic(), self.metrics()["dns_seconds_total"]))

        def during() -> None:
            self.served()
            at, before = begun[-1]
            shares.append((self.metrics()["dns_seconds_total"] - before) / (time.monotonic() - at))

        with DnsFlooder(flood) as flooder, Download(self.tunnel, self.ca) as download:
            figures = besiege(download, flooder, self.pid, _ENOUGH, begun=begin, during=during)
            report = flooder.rest()
        return figures, report, statistics.median(shares)

    def flooded(self, flood: Flood) -> tuple[Figures, FloodReport]:
        """Measure the tunnel's speed with and without a flood on a lane, which a new visitor must get past."""
        with Flooder(flood) as flooder, Download(self.tunnel, self.ca) as download:
            figures = besiege(download, flooder, self.pid, _ENOUGH, during=self.served)
            report = flooder.rest()
        return figures, report
