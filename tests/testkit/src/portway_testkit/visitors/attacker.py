"""A hostile visitor as a process of its own: connections at a bounded rate, each with some bytes, held open or closed.

Here: the program. Not here: which bytes are sent, and what must not suffer from them (siege.py). The rate is bounded so
that the node is measured and not the attacker's own use of the processor.
"""

import json
import select
import socket
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Final

from portway_testkit.visitors.controlled_program import ControlledProgram

_TICK: Final = 0.01
_READ: Final = 65_536


@dataclass(frozen=True, slots=True)
class Attack:
    """`at_once` connections and then `rate` per second, to `ports` in turn, from `addresses` loopback addresses in at
    least `networks` /24s; each sends one of `says`.

    At most `hold` are kept open: for each further one the oldest is read and closed.
    """

    host: str
    ports: list[int]
    rate: int
    says: list[str] = field(default_factory=list)  # in hexadecimal
    at_once: int = 0
    hold: int = 200
    addresses: int = 1
    networks: int = 1

    def source(self, number: int) -> str:
        """The source address of the connection with this number."""
        which, network = divmod(number % self.addresses, self.networks)
        return f"127.9.{network + which // 250 * self.networks}.{which % 250 + 1}"


@dataclass(frozen=True, slots=True)
class AttackReport:
    """What an attacker has done since `go`, and every answer since it was started."""

    opened: int
    refused: int  # connections that could not be opened
    held: int
    answers: list[str]  # without duplicates, in hexadecimal


class Attacker(ControlledProgram[AttackReport]):
    """`with Attacker(attack) as attacker:` waits; `go()` attacks until `rest()`.

    `go()` returns once the first `at_once` connections have been opened; `rest()` closes all.
    """

    def __init__(self, attack: Attack) -> None:
        super().__init__("portway_testkit.visitors.attacker", attack, AttackReport)


class _Program:
    def __init__(self, attack: Attack) -> None:
        self._attack = attack
        self._says = [bytes.fromhex(text) for text in attack.says]
        self._held: deque[socket.socket] = deque()
        self._answers: set[bytes] = set()
        self._opened = self._refused = 0

    def run(self) -> None:
        going, began = False, 0.0
        self._report()
        while True:
            readable, _, _ = select.select([sys.stdin], [], [], _TICK if going else None)
            if readable:
                word = sys.stdin.readline().strip()
                if not word:
                    return
                going = word == "go"
                if going:
                    self._opened = self._refused = 0
                    self._open_all(self._attack.at_once)
                    self._report()
                    began = time.monotonic()
                else:
                    self._rest()
            if going:
                self._open_all(self._attack.at_once + int((time.monotonic() - began) * self._attack.rate))

    def _open_all(self, due: int) -> None:
        while self._opened + self._refused < due:
            self._open(self._opened + self._refused)

    def _open(self, number: int) -> None:
        attack = self._attack
        sock = socket.socket()
        sock.setblocking(False)
        try:
            sock.bind((attack.source(number), 0))
            sock.connect_ex((attack.host, attack.ports[number % len(attack.ports)]))
            if self._says:
                sock.send(self._says[number % len(self._says)])
        except OSError:
            self._refused += 1
            sock.close()
            return
        self._opened += 1
        self._held.append(sock)
        if len(self._held) > attack.hold:
            self._let_go(self._held.popleft())

    def _let_go(self, sock: socket.socket) -> None:
        try:
            self._answers.add(sock.recv(_READ)[:64])
        except OSError:
            pass
        sock.close()

    def _rest(self) -> None:
        held = len(self._held)
        while self._held:
            self._let_go(self._held.popleft())
        self._report(held)

    def _report(self, held: int = 0) -> None:
        report = AttackReport(self._opened, self._refused, held, sorted(answer.hex() for answer in self._answers))
        print(json.dumps(asdict(report)), flush=True)


if __name__ == "__main__":
    _Program(Attack(**json.loads(sys.stdin.readline()))).run()
