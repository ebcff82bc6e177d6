"""Clients that come and go while things go wrong: each opens tunnels of its own, and closes them or is killed.

Here: their processes, and what the ledger is told of them. Not here: when they come (plan.py), who visits them.
"""

import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from portway_lab.chaos.ledger import Ledger
from portway_lab.cluster.clients import open_tunnels, start_client
from portway_lab.cluster.network import Network
from portway_lab.cluster.processes import Process, Processes, end_process

TUNNELS_EACH: Final = 2
# forward() gives up after 10 s, the end of an interpreter takes a moment, and the machine has other things to do.
_ENDS_WITHIN: Final = 30.0
_FOUND_NOBODY: Final = 1  # exit code


@dataclass(slots=True)
class _Guest:
    process: Process
    names: list[str] = field(default_factory=list)  # once they are open
    told: float | None = None  # when it was told to end


class Guests:
    """One at a time in a place. Ending in any other way than it was told to is `unexpected`."""

    def __init__(
        self,
        processes: Processes,
        network: Network,
        exports: Mapping[str, str],
        region: str,
        ledger: Ledger,
        say: Callable[[str], None],
    ) -> None:
        self._processes = processes
        self._network = network
        self._exports = exports
        self._flags = ("--raw", "--region", region)
        self._ledger = ledger
        self._say = say
        self._came = 0
        self._here: dict[str, _Guest] = {}
        self._leaving: list[_Guest] = []
        self.outcomes: Counter[str] = Counter()
        self.unexpected: list[str] = []

    def come(self, place: str) -> str:
        """Begin to open tunnels, and wait for nothing; by which name it is `open` later."""
        self._came += 1
        name = f"{place}-came-{self._came}"
        tunnels = [f"{name}-tunnel-{number}" for number in range(TUNNELS_EACH)]
        prefix = self._network.prefix(place)
        process = start_client(self._processes, name, tunnels, self._exports, prefix, self._flags)
        self._here[place] = _Guest(process)
        return name

    def here(self) -> list[Process]:
        return [guest.process for guest in self._here.values()]

    def is_here(self, place: str) -> bool:
        return place in self._here

    def open(self, name: str) -> bool:
        """Whether it is here and its tunnels are open."""
        return any(guest.process.name == name and guest.names for guest in self._here.values())

    def leave(self, place: str, *, killed: bool) -> None:
        """Close them in order, or die; waited for elsewhere (`look_after`)."""
        guest = self._here.pop(place, None)
        if guest is None:
            return
        self._hear(guest)
        guest.told = time.monotonic()
        self._ledger.let_go(guest.names, guest.told)
        guest.process.popen.send_signal(signal.SIGKILL if killed else signal.SIGTERM)
        self._leaving.append(guest)

    def look_after(self) -> None:
        """Tell the ledger what has changed."""
        for place, guest in list(self._here.items()):
            self._hear(guest)
            if guest.process.ended():
                del self._here[place]
                self._gone(guest)
        for guest in self._leaving[:]:
            self._hear(guest)
            assert guest.told is not None
            if not guest.process.ended() and time.monotonic() - guest.told > _ENDS_WITHIN:
                self.unexpected.append(f"{guest.process.name} did not end within {_ENDS_WITHIN:.0f} s of SIGTERM")
                end_process(guest.process.popen, guest.process.name, 0)
            if guest.process.ended():
                self._leaving.remove(guest)
                self._gone(guest)

    def all_left(self) -> list[str]:
        """Those that have not ended, though they were told."""
        return [f"{guest.process.name} has not ended" for guest in self._leaving]

    def _hear(self, guest: _Guest) -> None:
        if guest.names:
            return
        tunnels = open_tunnels(guest.process)
        if not tunnels:
            return
        guest.names = list(tunnels)
        self._ledger.opened(tunnels.values())
        if guest.told is not None:
            self._ledger.let_go(guest.names, guest.told)
        self.outcomes["opened"] += 1

    def _gone(self, guest: _Guest) -> None:
        self._processes.forget_ended()
        # It may have opened them and ended between two looks.
        self._hear(guest)
        self._ledger.ended(guest.names)
        code = guest.process.popen.returncode
        if not guest.names:
            self.outcomes["did not open"] += 1
        if code == _FOUND_NOBODY and not guest.names:
            self._say(f"{guest.process.name}: {guest.process.log.read_text(errors='replace').strip()[-160:]}")
        elif guest.told is None or code not in (0, -signal.SIGTERM, -signal.SIGKILL):
            self.unexpected.append(f"{guest.process.failure(f'ended by itself (exit code {code})')}")
