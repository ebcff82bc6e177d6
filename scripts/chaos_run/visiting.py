"""Visitors who never stop: each knows every byte that it must get.

Here: threads in the visitor's place, what they saw, added up. Not here: one visit (cluster/visits.py).
"""

import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

from cluster.clients import NamedTunnel
from cluster.own_answers import Ask
from cluster.visits import WrongBytes, ask, connect, visitor_context

from chaos_run.plan import NODES
from chaos_run.stage import VISITOR, Stage

_THREADS = 12
_TIMEOUT = 6.0
_BETWEEN = 0.05
_SIZES = (0, 1, 1_000, 60_000, 300_000)
_MOST_ASKED = 3


class Visitors:
    """`with Visitors(stage, seed) as visitors:` has them visit until the block ends."""

    def __init__(self, stage: Stage, seed: int, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._say = say
        self._seed = seed
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._visit, args=(number,)) for number in range(_THREADS)]
        self._served_at = dict.fromkeys(stage.tunnels, time.monotonic())
        self.outcomes: Counter[str] = Counter()
        self.longest_gap = dict.fromkeys(stage.tunnels, 0.0)
        self.violations: list[str] = []

    def __enter__(self) -> "Visitors":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _visit(self, number: int) -> None:
        lot = random.Random(f"visitor {self._seed} {number}")
        tunnels = list(self._stage.tunnels.values())
        context = visitor_context(self._stage.cluster.ca)
        with self._stage.network.inside(VISITOR):
            while not self._stop.wait(_BETWEEN):
                tunnel, node = lot.choice(tunnels), lot.choice(NODES)
                questions = [Ask(lot.choice(_SIZES), lot.random() < 0.3) for _ in range(lot.randint(1, _MOST_ASKED))]
                self._count(tunnel, self._outcome(context, tunnel, node, questions))

    def _outcome(self, context: ssl.SSLContext, tunnel: NamedTunnel, node: str, questions: list[Ask]) -> str:
        try:
            with ExitStack() as stack:
                connection = stack.enter_context(connect(context, self._stage.listens[node], tunnel, _TIMEOUT))
                for question in questions:
                    ask(connection, tunnel, question)
        except WrongBytes as error:
            self._violate(f"at {node}: {error}")
            return "wrong bytes"
        except ssl.SSLCertVerificationError as error:
            self._violate(f"at {node}: a certificate that is not {tunnel.name}'s: {error}")
            return "wrong certificate"
        except OSError as error:
            return error.reason if isinstance(error, ssl.SSLError) and error.reason else type(error).__name__
        return "served"

    def _violate(self, what: str) -> None:
        self._say(f"VIOLATION {what}")
        with self._lock:
            self.violations.append(what)

    def _count(self, tunnel: NamedTunnel, outcome: str) -> None:
        now = time.monotonic()
        with self._lock:
            self.outcomes[outcome] += 1
            if outcome == "served":
                gap = now - self._served_at[tunnel.name]
                self.longest_gap[tunnel.name] = max(self.longest_gap[tunnel.name], gap)
                self._served_at[tunnel.name] = now
