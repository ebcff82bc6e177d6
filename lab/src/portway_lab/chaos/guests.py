"""Clients that come and go during the faults: each opens tunnels of its own, and closes them or is killed.

Here: their processes, and what the ledger learns of them. Not here: when they come (plan.py), their visitors
(visitors.py).
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
# Seconds. forward() gives up after 10 s, an interpreter takes a moment to end, and the machine is busy.
_ENDS_WITHIN: Final = 30.0
_NOT_OPENED: Final = 1  # exit code


@dataclass(slots=True)
class _Guest:
    process: Process
    names: list[str] = field(default_factory=list)  # once they are open
    signalled_at: float | None = None  # when it was told to end


class Guests:
    """At most one guest in a place at a time. A guest that ends by itself is `unexpected`."""

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
        self._present: dict[str, _Guest] = {}
        self._leaving: list[_Guest] = []
        self.outcomes: Counter[str] = Counter()
        self.unexpected: list[str] = []

    def come(self, place: str) -> str:
        """Start a guest without waiting for its tunnels. Returns its name, for `has_tunnels`."""
        self._came += 1
        name = f"{place}-came-{self._came}"
        tunnels = [f"{name}-tunnel-{number}" for number in range(TUNNELS_EACH)]
        prefix = self._network.prefix(place)
        process = start_client(self._processes, name, tunnels, self._exports, prefix, self._flags)
        self._present[place] = _Guest(process)
        return name

    def present(self) -> list[Process]:
        return [guest.process for guest in self._present.values()]

    def is_present(self, place: str) -> bool:
        return place in self._present

    def has_tunnels(self, name: str) -> bool:
        """Whether the guest is present and its tunnels are open."""
        return any(guest.process.name == name and guest.names for guest in self._present.values())

    def leave(self, place: str, *, killed: bool) -> None:
        """Tell the guest to close its tunnels and end, or kill it. Does not wait (`supervise` does)."""
        guest = self._present.pop(place, None)
        if guest is None:
            return
        self._note_tunnels(guest)
        guest.signalled_at = time.monotonic()
        self._ledger.released(guest.names, guest.signalled_at)
        guest.process.popen.send_signal(signal.SIGKILL if killed else signal.SIGTERM)
        self._leaving.append(guest)

    def supervise(self) -> None:
        """Note in the ledger which guests have opened tunnels or ended; kill one that does not end."""
        for place, guest in list(self._present.items()):
            self._note_tunnels(guest)
            if guest.process.ended():
                del self._present[place]
                self._note_end(guest)
        for guest in self._leaving[:]:
            self._note_tunnels(guest)
            assert guest.signalled_at is not None
            if not guest.process.ended() and time.monotonic() - guest.signalled_at > _ENDS_WITHIN:
                self.unexpected.append(f"{guest.process.name} did not end within {_ENDS_WITHIN:.0f} s of SIGTERM")
                end_process(guest.process.popen, guest.process.name, 0)
            if guest.process.ended():
                self._leaving.remove(guest)
                self._note_end(guest)

    def not_ended(self) -> list[str]:
        """Guests that were told to end and have not ended."""
        return [f"{guest.process.name} has not ended" for guest in self._leaving]

    def _note_tunnels(self, guest: _Guest) -> None:
        if guest.names:
            return
        tunnels = open_tunnels(guest.process)
        if not tunnels:
            return
        guest.names = list(tunnels)
        self._ledger.opened(tunnels.values())
        if guest.signalled_at is not None:
            self._ledger.released(guest.names, guest.signalled_at)
        self.outcomes["opened"] += 1

    def _note_end(self, guest: _Guest) -> None:
        self._processes.forget_ended()
        # It may have opened its tunnels and ended since the last call.
        self._note_tunnels(guest)
        self._ledger.ended(guest.names)
        code = guest.process.popen.returncode
        if not guest.names:
            self.outcomes["did not open"] += 1
        if code == _NOT_OPENED and not guest.names:
            self._say(f"{guest.process.name}: {guest.process.log.read_text(errors='replace').strip()[-160:]}")
        elif guest.signalled_at is None or code not in (0, -signal.SIGTERM, -signal.SIGKILL):
            self.unexpected.append(f"{guest.process.failure(f'ended by itself (exit code {code})')}")
