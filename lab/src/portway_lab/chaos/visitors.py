"""Visitors without pause: each knows every byte that it must get, and which tunnels must not answer any more.

Here: threads in the visitors' place, and the sums of what they saw. Not here: the bytes of a visit
(cluster/visits.py), what is a violation (ledger.py).
"""

import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from portway_testkit.visitors.going_on import GoingOn

from portway_lab.chaos.ledger import Got, Life, Visit
from portway_lab.chaos.own_answer import NAME
from portway_lab.chaos.stage import VISITOR, Stage
from portway_lab.cluster.clients import NamedTunnel
from portway_lab.cluster.visits import Ask, WrongBytes, ask, connect, connect_raw, visitor_context

_THREADS = 12
_TIMEOUT = 6.0
_BETWEEN = 0.05  # seconds between two visits of a thread
_SIZES = (0, 1, 1_000, 60_000, 300_000)
_MAX_QUESTIONS = 3  # of one visit
_OUTCOMES = {Got.FOREIGN: "foreign bytes", Got.HOSTILE: "answered by the hostile node"}


def visit(
    stage: Stage, context: ssl.SSLContext, tunnel: NamedTunnel, node: str, questions: Sequence[Ask], *, raw: bool
) -> Visit:
    """One visit of a tunnel at a node, from a thread that is in the visitors' place."""
    began = time.monotonic()
    got, reason = Got.OWN, "served"
    try:
        with (
            connect_raw(stage.network.address(node), tunnel.raw_port, _TIMEOUT)
            if raw
            else connect(context, stage.listens[node], tunnel, _TIMEOUT)
        ) as connection:
            for question in questions:
                ask(connection, tunnel, question)
    except WrongBytes as error:
        got, reason = Got.HOSTILE if f"X-Tunnel: {NAME}" in str(error) else Got.FOREIGN, str(error)
    except ssl.SSLCertVerificationError as error:
        got, reason = Got.FOREIGN, f"a certificate that is not {tunnel.name}'s: {error}"
    except OSError as error:
        tls = isinstance(error, ssl.SSLError) and error.reason
        got, reason = Got.NOTHING, tls or f"{type(error).__name__}"
    ended = time.monotonic()
    in_its_hands = got is Got.HOSTILE and stage.hostile.may_answer(tunnel.label, node, began, ended)
    return Visit(raw, node, began, ended, got, reason, in_its_hands)


class Visitors(GoingOn):
    """`with Visitors(stage, seed, say) as visitors:` visits until the block ends."""

    def __init__(self, stage: Stage, seed: int, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._say = say
        self._seed = seed
        self._lock = threading.Lock()
        super().__init__(threading.Thread(target=self._visit, args=(number,)) for number in range(_THREADS))
        self._served_at = dict.fromkeys(map(_address, stage.addresses()), time.monotonic())
        self.outcomes: Counter[str] = Counter()
        self.longest_gap = dict.fromkeys(self._served_at, 0.0)
        self.violations: list[str] = []

    def _visit(self, number: int) -> None:
        rng = random.Random(f"visitor {self._seed} {number}")
        context = visitor_context(self._stage.cluster.ca)
        ledger = self._stage.ledger
        with self._stage.network.inside(VISITOR):
            while not self._over.wait(_BETWEEN):
                life, raw = ledger.pick(rng)
                node = rng.choice(self._stage.ingress_nodes(life.tunnel, raw=raw))
                questions = [Ask(rng.choice(_SIZES), rng.random() < 0.3) for _ in range(rng.randint(1, _MAX_QUESTIONS))]
                done = visit(self._stage, context, life.tunnel, node, questions, raw=raw)
                self._count(life, done)

    def _count(self, life: Life, done: Visit) -> None:
        wrong = life.violation(done, self._stage.ledger.rest)
        if wrong:
            self._say(f"VIOLATION {wrong}")
        address = _address((life.tunnel, done.raw))
        closed = "closed: " if life.released < done.began else ""
        outcome = _OUTCOMES.get(done.got, done.reason)
        with self._lock:
            if wrong:
                self.violations.append(wrong)
            self.outcomes[f"{closed}{'raw ' if done.raw else ''}{outcome}"] += 1
            if done.got is Got.OWN and address in self._served_at:
                gap = done.ended - self._served_at[address]
                self.longest_gap[address] = max(self.longest_gap[address], gap)
                self._served_at[address] = done.ended


def _address(address: tuple[NamedTunnel, bool]) -> str:
    tunnel, raw = address
    return f"{tunnel.name} raw" if raw else tunnel.name
