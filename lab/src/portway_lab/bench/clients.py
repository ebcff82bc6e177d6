"""Program: processes with a session each, and tunnels that nobody visits. usage: hold_sessions.py SESSIONS TUNNELS_EACH

Prints {"held": N} when every session has one tunnel; after a line on stdin has come, the same when it has all of them.
Ends with its stdin.
"""

import contextlib
import json
import os
import sys
from dataclasses import dataclass

import portway

# Each imports what a client needs: more at once would wait for the processor, and for their nodes, too long.
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class _Session:
    """A process, seen from outside: a byte to it is an order, a byte from it says that it is carried out."""

    pid: int
    orders: int
    told: int

    def order(self) -> None:
        os.write(self.orders, b".")

    def wait(self) -> None:
        if not os.read(self.told, 1):
            raise SystemExit("a session has ended; its message is above")


def main() -> None:
    sessions = [_start(int(sys.argv[2])) for _ in range(int(sys.argv[1]))]
    for held in (len(sessions), len(sessions) * int(sys.argv[2])):
        for first in range(0, len(sessions), _AT_ONCE):
            few = sessions[first : first + _AT_ONCE]
            for session in few:
                session.order()
            for session in few:
                session.wait()
        print(json.dumps({"held": held}), flush=True)
        sys.stdin.readline()
    for session in sessions:
        os.close(session.orders)
    for session in sessions:
        os.waitpid(session.pid, 0)


def _start(tunnels: int) -> _Session:
    (ordered, orders), (told, telling) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        # The others' ends are closed by nobody else: a session ends when its orders do.
        os.closerange(3, ordered)
        os.close(orders)
        os.close(told)
        _hold(tunnels, ordered, telling)
        os._exit(0)
    os.close(ordered)
    os.close(telling)
    return _Session(pid, orders, told)


def _hold(tunnels: int, ordered: int, telling: int) -> None:
    with contextlib.ExitStack() as held:
        for ports in ((1,), range(2, tunnels + 1)):
            if not os.read(ordered, 1):
                return
            for port in ports:
                held.enter_context(portway.forward(port))
            os.write(telling, b".")
        os.read(ordered, 1)


if __name__ == "__main__":
    main()
