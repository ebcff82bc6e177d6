"""Program: clients of a cluster, to be measured or held while something else is.

usage: python -m portway_lab.bench.clients KIND ARGUMENTS, configured by the environment as any client is

    warm COUNT                     forward() in a process that had a tunnel before and has none now;
                                   prints {"ms": [...]}
    second COUNT                   forward() while another tunnel of the process is open; prints {"ms": [...]}
    hold PORT --ready-file FILE    one tunnel until SIGTERM; FILE holds {"host", "port", "pid"}
    sessions COUNT TUNNELS_EACH    processes with one session each and idle tunnels; prints {"held"} when every session
                                   has one tunnel and, after a line on stdin, again when it has all of them; ends at
                                   end of file on stdin

`forward_once.py` is apart: a fresh interpreter must import nothing but the client.
"""

import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import portway
from portway_runtime.secret_files import replace_file

_FIRST, _MEASURED = 8001, 8002  # no local server is needed: forward() does not dial it
# Processes that open tunnels at the same time. Each imports the client first; more of them would make each other wait
# for the processor longer than nodes wait for a greeting.
_PARALLEL: Final = 4


def time_forward(kind: str, count: int) -> None:
    taken = []
    with contextlib.ExitStack() as stack:
        if kind == "second":
            stack.enter_context(portway.forward(_FIRST))
        with portway.forward(_MEASURED):
            pass
        for _ in range(count):
            started = time.perf_counter()
            with portway.forward(_MEASURED):
                taken.append((time.perf_counter() - started) * 1000)
    print(json.dumps({"ms": taken}))


def hold(port: int, ready_file: Path) -> None:
    # Blocked here and so in every thread that starts later: sigwait receives it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    with portway.forward(port) as tunnel:
        host, public_port = tunnel.tls_socket
        ready = {"host": host, "port": public_port, "pid": os.getpid()}
        replace_file(ready_file, json.dumps(ready).encode(), durable=False)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


@dataclass(frozen=True, slots=True)
class _Session:
    """A child process. A byte written to `orders` is an order; a byte read from `replies` says that it is done."""

    pid: int
    orders: int
    replies: int

    def order(self) -> None:
        os.write(self.orders, b".")

    def wait(self) -> None:
        if not os.read(self.replies, 1):
            raise SystemExit("a session has ended; its message is above")


def hold_sessions(count: int, tunnels_each: int) -> None:
    sessions = [_start(tunnels_each) for _ in range(count)]
    for held in (count, count * tunnels_each):
        for first in range(0, count, _PARALLEL):
            group = sessions[first : first + _PARALLEL]
            for session in group:
                session.order()
            for session in group:
                session.wait()
        print(json.dumps({"held": held}), flush=True)
        sys.stdin.readline()
    for session in sessions:
        os.close(session.orders)
    for session in sessions:
        os.waitpid(session.pid, 0)


def _start(tunnels: int) -> _Session:
    (read_orders, write_orders), (read_replies, write_replies) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        # A session ends when the parent closes its orders, so no sibling may hold a copy of that descriptor.
        os.closerange(3, read_orders)
        os.close(write_orders)
        os.close(read_replies)
        _hold_tunnels(tunnels, read_orders, write_replies)
        os._exit(0)
    os.close(read_orders)
    os.close(write_replies)
    return _Session(pid, write_orders, read_replies)


def _hold_tunnels(tunnels: int, orders: int, replies: int) -> None:
    with contextlib.ExitStack() as opened:
        for ports in ((1,), range(2, tunnels + 1)):
            if not os.read(orders, 1):
                return
            for port in ports:
                opened.enter_context(portway.forward(port))
            os.write(replies, b".")
        os.read(orders, 1)


def main() -> None:
    match sys.argv[1:]:
        case [("warm" | "second") as kind, count]:
            time_forward(kind, int(count))
        case ["hold", port, "--ready-file", file]:
            hold(int(port), Path(file))
        case ["sessions", count, tunnels_each]:
            hold_sessions(int(count), int(tunnels_each))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
