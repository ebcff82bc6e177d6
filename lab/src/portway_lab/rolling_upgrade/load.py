"""200 requests per second on new and on kept connections, at the nodes that are ready.

Here: the load, and its failures. Not here: the restarts of the nodes (command.py).
"""

import math
import random
import ssl
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from portway_testkit.visitors.going_on import GoingOn

from portway_lab.cluster.clients import NamedTunnel
from portway_lab.cluster.visits import Ask, WrongBytes, ask, connect, visitor_context

# Threads, and the seconds between requests of each: 100 requests per second on new connections, 100 on kept ones, and
# requests that take two seconds each.
_NEW, _NEW_EVERY = 10, 0.1
_KEPT, _KEPT_EVERY = 20, 0.2
_SLOW = 2
# Requests of a kept connection, which lasts two seconds then, also where there is no time for all of them: much less
# than a node's grace, as behind any balancer that must be able to release a node.
_REQUESTS_OF_KEPT = 10
_KEPT_FOR = _REQUESTS_OF_KEPT * _KEPT_EVERY
_PER_SECOND = _NEW / _NEW_EVERY + _KEPT / _KEPT_EVERY
_SMALL = Ask(500)
_LONG = Ask(20_000, seconds=2.0)
_TIMEOUT = 15.0
_PROBE_EVERY = 0.05  # seconds between two looks of the balancer at /readyz
# Seconds after which a look says nothing any more: who is sent to a node that has stopped since, and asks for two
# seconds, is gone before its grace is over. A balancer that is later sends nobody anywhere.
_FRESH = 2.0
# Of the planned load; with less the result says nothing. Two busy cores have been seen to leave half of it.
_ENOUGH = 0.1


class Load(GoingOn):
    """`with Load(...) as load:` sends requests until the block ends.

    `ready` maps the address of each node to that of its admin server.
    """

    def __init__(self, ca: Path, tunnels: Sequence[NamedTunnel], ready: Mapping[str, str]) -> None:
        self._context = visitor_context(ca)
        self._tunnels = tunnels
        self._admin = ready
        self._ready = dict.fromkeys(ready, -math.inf)  # when the last look began, if it was ready then
        self._lock = threading.Lock()
        kinds: list[tuple[Callable[[random.Random], None], int]] = [
            (self._ask_on_new, _NEW),
            (self._ask_on_kept, _KEPT),
            (self._ask_slowly, _SLOW),
        ]
        threads = [
            threading.Thread(target=self._repeat, args=(step, number), name=f"{step.__name__} {number}")
            for step, count in kinds
            for number in range(count)
        ]
        super().__init__([*threads, threading.Thread(target=self._probe, name="balancer")])
        self._began = self._seconds = 0.0
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        return super().__enter__()

    def __exit__(self, *how: object) -> None:
        self._seconds = time.monotonic() - self._began
        super().__exit__(*how)

    def enough(self) -> bool:
        """Whether the load was one: a part of what is planned is enough on a busy machine."""
        return self.counts["requests"] >= _ENOUGH * _PER_SECOND * self._seconds

    def summary(self) -> str:
        rate = self.counts["requests"] / self._seconds
        return (
            f"{self.counts['requests']} requests in {self._seconds:.0f} s ({rate:.0f}/s of {_PER_SECOND:.0f}/s), "
            f"{self.counts['connections']} new connections, {self.counts['slow']} requests of {_LONG.seconds:g} s; "
            f"{self.counts['not connected']} new connections failed, {self.counts['cut']} requests were cut"
        )

    def _repeat(self, step: Callable[[random.Random], None], number: int) -> None:
        rng = random.Random(f"{step.__name__} {number}")
        self._over.wait(rng.random() * _KEPT_EVERY)
        while not self._over.is_set():
            step(rng)

    def _ask_on_new(self, rng: random.Random) -> None:
        self._visit(rng, [_SMALL], _NEW_EVERY)

    def _ask_on_kept(self, rng: random.Random) -> None:
        self._visit(rng, [_SMALL] * _REQUESTS_OF_KEPT, _KEPT_EVERY)

    def _ask_slowly(self, rng: random.Random) -> None:
        self._visit(rng, [_LONG], 0.0)

    def _visit(self, rng: random.Random, questions: Sequence[Ask], every: float) -> None:
        """One connection; each question is asked `every` seconds after the previous one."""
        tunnel, node = rng.choice(self._tunnels), self._ready_node(rng)
        if node is None:
            self._over.wait(_PROBE_EVERY)
            return
        began = due = time.monotonic()
        try:
            connection = connect(self._context, node, tunnel, _TIMEOUT)
        except OSError as error:
            self._count("not connected", f"{node}: a new connection failed: {error!r}")
            self._over.wait(every)
            return
        with connection:
            self._count("connections")
            for number, question in enumerate(questions):
                if not self._ask(connection, tunnel, question, f"{node}, request {number} of its connection"):
                    return
                due += every
                if self._over.wait(max(0.0, due - time.monotonic())) or time.monotonic() - began > _KEPT_FOR:
                    return

    def _ready_node(self, rng: random.Random) -> str | None:
        """One that the balancer has just seen ready; None when there is none."""
        now = time.monotonic()
        fresh = [node for node, looked in self._ready.items() if now - looked < _FRESH]
        return rng.choice(fresh) if fresh else None

    def _ask(self, connection: ssl.SSLSocket, tunnel: NamedTunnel, question: Ask, where: str) -> bool:
        try:
            ask(connection, tunnel, question)
        except (OSError, WrongBytes) as error:
            self._count("cut", f"{where} was cut: {error!r}")
            return False
        self._count("slow" if question is _LONG else "requests")
        return True

    def _count(self, what: str, failure: str = "") -> None:
        with self._lock:
            self.counts[what] += 1
            if failure:
                self.failures.append(f"after {time.monotonic() - self._began:.2f} s: {failure}")

    def _probe(self) -> None:
        """As a load balancer does: only nodes that are ready get new connections."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while not self._over.wait(_PROBE_EVERY):
            for node, admin in self._admin.items():
                looked = time.monotonic()
                try:
                    with opener.open(f"http://{admin}/readyz", timeout=1):
                        self._ready[node] = looked
                except OSError:
                    self._ready[node] = -math.inf
