"""What this node answers for the domain: from the records that a registry listed and the nodes that it knows now.

Here: when the zone is made anew. Pure but for the looks at its sources. Not here: sockets (udp.py, tcp.py), rates and
the budget (responder.py).
"""

import logging
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Final

import dns.rcode
from portway_geo.position import Position
from portway_runtime.clocks import Monotonic

from portway_relay.dns.answers import Answers, fail, refuse, truncate
from portway_relay.dns.query import Refused, read_query
from portway_relay.dns.records import RecordList
from portway_relay.dns.table import NodeTable
from portway_relay.dns.zone import Zone

logger = logging.getLogger(__name__)

# Seconds between two looks at the nodes: the part that this has in the time until one that drains is in no answer.
LOOK_EVERY: Final = 0.5


class Authority:
    """Answers queries for the domain. Before a registry has listed its records, and this node with it the others, it
    fails them: resolvers ask another name server then."""

    def __init__(
        self,
        domain: str,
        own: str,
        table: NodeTable,
        locate: Callable[[str], Position | None],
        clock: Monotonic,
        *,
        other_region: bool = True,
    ) -> None:
        """own: this node's name. locate: where an address is. other_region: as of NodeChoice."""
        self._domain = domain
        self._own = own
        self._table = table
        self._locate = locate
        self._clock = clock
        self._other_region = other_region
        self._listed: RecordList | None = None
        self._answers: Answers | None = None
        self._look_at = 0.0
        self._turns = count()
        self.codes: Counter[str] = Counter()  # answers since the start, by code

    @property
    def version(self) -> int | None:
        """The version of the records that it answers from; None before the first."""
        return None if self._listed is None else self._listed.version

    def use(self, listed: RecordList) -> None:
        """Answer by these from now on."""
        self._listed = listed
        self._answers = None

    def answer(self, data: bytes, source: str, *, largest: int, cut: bool = False) -> bytes | None:
        """The answer to a message; None for what must not be answered.

        source: the address that it came from. largest: UDP_SIZE or TCP_SIZE. cut: say only that it is to be asked over
            TCP. A fault that answering meets is logged, and the answer is SERVFAIL.
        """
        query = read_query(data)
        if query is None:
            return None
        if isinstance(query, Refused):
            self.codes[dns.rcode.to_text(dns.rcode.Rcode(query.code)).lower()] += 1
            return refuse(query)
        if cut:
            return truncate(query)
        try:
            answers = self._current()
            found = None if answers is None else answers.answer(query, source, largest=largest)
        except Exception:  # a fault of this program, which a stranger's question has met
            logger.exception("a DNS query fails")
            found = None
        if found is None:
            self.codes["servfail"] += 1
            return fail(query)
        answer, code = found
        self.codes[_CODES[code]] += 1
        return answer

    def _current(self) -> Answers | None:
        now = self._clock()
        if self._listed is not None and (self._answers is None or now >= self._look_at):
            self._look_at = now + LOOK_EVERY
            if self._table.look() or self._answers is None:
                zone = Zone(self._domain, self._listed, self._table.nodes, self._own, other_region=self._other_region)
                self._answers = Answers(zone, self._locate, self._turns)
        return self._answers


_CODES: Final = {code: dns.rcode.to_text(dns.rcode.Rcode(code)).lower() for code in range(24)}
