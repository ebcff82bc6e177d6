"""What the hostile node notes of itself, so that visitors can be judged: when it lies, and whose tunnels came to it.

A line is written before what it tells of has any effect. Times are the machine's monotonic clock, which all processes
share. Here: the file, written by hostile_node.py and read by the run. Not here: what is a violation (ledger.py).
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

_LIES: Final = "lies"
_HONEST: Final = "honest"
_PLACED: Final = "placed"
_TOLD: Final = "told"


class RecordWriter:
    """The hostile node's side. A process that starts is honest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._placed: set[str] = set()
        self._write(_HONEST)

    def lies(self) -> None:
        """It lies from now on."""
        self._write(_LIES)

    def honest(self) -> None:
        """It lies no more."""
        self._write(_HONEST)

    def placed(self, label: str) -> None:
        """A client has signed a claim for this node: the tunnel is, or was, homed here."""
        if label not in self._placed:
            self._placed.add(label)
            self._write(_PLACED, label)

    def told(self, what: str, count: int) -> None:
        """So many statements of this kind were sent to others while it lied."""
        self._write(_TOLD, f"{what}:{count}")

    def _write(self, kind: str, what: str = "-") -> None:
        with self._path.open("a") as file:
            file.write(f"{time.monotonic()} {kind} {what}\n")


class HostileRecord:
    """The run's side. Thread-safe."""

    def __init__(self, path: Path, node: str) -> None:
        """`node` is the place of the hostile node."""
        self._path = path
        self.node = node
        self._lock = threading.Lock()
        self._read = 0  # bytes
        self._lied: list[tuple[float, float]] = []  # from, until
        self._placed: set[str] = set()
        self._told: Counter[str] = Counter()

    def told(self) -> Counter[str]:
        """The lies by kind, each as often as it was sent."""
        with self._lock:
            self._update()
            return self._told.copy()

    def was_placed(self, label: str) -> bool:
        """Whether its client has ever placed it at the hostile node."""
        with self._lock:
            self._update()
            return label in self._placed

    def may_answer(self, label: str, ingress: str, began: float, ended: float) -> bool:
        """Whether the hostile node may have answered this visit itself: it lied, and the visitor came to it, or
        the tunnel's client had placed the tunnel there."""
        with self._lock:
            self._update()
            lied = any(since <= ended and began <= until for since, until in self._lied)
            return lied and (ingress == self.node or label in self._placed)

    def wait_for(self, lies: bool, within: float, supervise: Callable[[], object]) -> bool:
        """Wait until it lies, or does not. False when it takes longer than `within` seconds."""
        deadline = time.monotonic() + within
        while True:
            with self._lock:
                self._update()
                now = bool(self._lied) and self._lied[-1][1] == math.inf
            if now == lies or time.monotonic() > deadline:
                return now == lies
            supervise()
            time.sleep(0.05)

    def _update(self) -> None:
        """Take up the lines that are complete."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode().splitlines():
            at, kind, what = line.split()
            if kind == _PLACED:
                self._placed.add(what)
                continue
            if kind == _TOLD:
                name, _, count = what.partition(":")
                self._told[name] += int(count)
                continue
            if self._lied and self._lied[-1][1] == math.inf:
                self._lied[-1] = (self._lied[-1][0], float(at))
            if kind == _LIES:
                self._lied.append((float(at), math.inf))
