"""Program: a client with one tunnel that computes when it is told to.

usage: python -m portway_lab.bench.computing_client PORT --ready-file FILE, configured by the environment as any client
is (PORTWAY_PROCESS=1: its engine is in a process of its own)

FILE holds {"host", "port", "pid"}. What computes is the order that was given last, by its signal (`Order.signal`).
SIGTERM ends it.
"""

import enum
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import portway
from portway_runtime.secret_files import replace_file

_SHORT_TURNS: Final = 0.0005  # seconds, in place of 0.005


class Order(enum.Enum):
    """What computes beside the tunnel."""

    NOTHING = "nothing computes"
    THREAD = "a thread computes"
    SHORT_TURNS = f"the same, setswitchinterval({_SHORT_TURNS})"
    PROCESS = "a process computes"

    @property
    def signal(self) -> int:
        """It gives this order."""
        return signal.SIGRTMIN + 1 + list(Order).index(self)


def hold(port: int, ready_file: Path) -> None:
    orders = {order.signal: order for order in Order}
    # Blocked here and so in every thread that starts later: sigwait receives them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, *orders})
    with portway.forward(port) as tunnel:
        host, public_port = tunnel.tls_socket
        ready = {"host": host, "port": public_port, "pid": os.getpid()}
        replace_file(ready_file, json.dumps(ready).encode(), durable=False)
        work = _Work()
        while (number := signal.sigwait({signal.SIGTERM, signal.SIGINT, *orders})) in orders:
            work.change(orders[number])
        work.change(Order.NOTHING)


class _Work:
    """What computes now."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._turns = sys.getswitchinterval()

    def change(self, order: Order) -> None:
        self._ended.set()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        sys.setswitchinterval(_SHORT_TURNS if order is Order.SHORT_TURNS else self._turns)
        if order is Order.PROCESS:
            self._process = subprocess.Popen([sys.executable, "-c", "while True: sum(range(1000))"])
        elif order is not Order.NOTHING:
            self._ended = threading.Event()
            threading.Thread(target=_compute, args=(self._ended,), daemon=True).start()


def _compute(ended: threading.Event) -> None:
    while not ended.is_set():
        sum(range(1000))


def main() -> None:
    match sys.argv[1:]:
        case [port, "--ready-file", file]:
            hold(int(port), Path(file))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
