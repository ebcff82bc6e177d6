"""The DNS servers of a node: UDP and TCP on every address that its settings name.

Here: composition, start and stop. They answer until the last visit has ended: a node that stops is in its own answers
no more, and resolvers go on asking it for as long as its name servers' addresses are known.
"""

import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from portway_geo.errors import GeoError
from portway_geo.locator import Locator
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError
from portway_runtime.listening import endpoint_of, open_with_datagrams
from portway_runtime.tasks import Tasks

from portway_relay.config import NodeLimits
from portway_relay.dns.answers import TCP_SIZE, UDP_SIZE
from portway_relay.dns.authority import Authority
from portway_relay.dns.loop_share import LoopShare
from portway_relay.dns.response_rate import ResponseRate, Verdict
from portway_relay.dns.tcp import IDLE_TIME, TcpServer
from portway_relay.dns.udp import UdpServer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DnsCounts:
    """What the servers of a node count since its start."""

    queries: Mapping[str, int]  # by transport
    answers: Mapping[str, int]  # by code
    unanswered: Mapping[str, int]  # by reason
    pauses: int
    seconds: float  # of the event loop's time
    connections: int  # over TCP, now
    version: int  # of the records


NO_COUNTS: Final = DnsCounts({}, {}, {}, 0, 0.0, 0, 0)


class DnsServer:
    """Answers at all of `listen`; nowhere when that is empty."""

    def __init__(
        self,
        listen: Sequence[Endpoint],
        authority: Authority,
        locator: Locator,
        limits: NodeLimits,
        visits: Callable[[], tuple[int, int]],
        clock: Monotonic,
        *,
        idle_time: float = IDLE_TIME,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """visits: how many run, and how many there were. idle_time: seconds, of connections."""
        self._listen = listen
        self.authority = authority
        self._locator = locator
        self._clock = clock
        self._idle_time = idle_time
        self._on_failure = on_failure
        self._tasks = Tasks("DNS", on_failure)
        self._share = LoopShare(limits.dns_loop_percent / 100, visits, clock)
        self._rate = ResponseRate(limits.dns_answers_per_second, limits.dns_answer_burst, clock)
        self._udp: UdpServer | None = None
        self._tcp: TcpServer | None = None
        self.addresses: tuple[Endpoint, ...] = ()  # where it answers

    @property
    def on(self) -> bool:
        """Whether it answers anywhere."""
        return self._udp is not None

    async def start(self) -> None:
        """Answer from now on. Raises ListenError, and opens nothing then."""
        if not self._listen or self.on:
            return
        listening: list[socket.socket] = []
        datagrams: list[socket.socket] = []
        try:
            for endpoint in self._listen:
                tcp, udp = open_with_datagrams(endpoint)
                listening += tcp
                datagrams += udp
        except ListenError as error:
            for sock in (*listening, *datagrams):
                sock.close()
            raise ListenError(f"--dns-listen: {error}", port_taken=error.port_taken) from error
        self.addresses = tuple(endpoint_of(sock.getsockname()) for sock in datagrams)
        self._udp = UdpServer(datagrams, self._over_udp, self._share, self._clock)
        self._tcp = TcpServer(
            listening,
            self._over_tcp,
            self._share,
            self._clock,
            idle_time=self._idle_time,
            on_failure=self._on_failure,
        )
        self._tasks.spawn(self._load(), name="load GeoIP")
        logger.info("answers DNS", extra={"addresses": ", ".join(map(str, self.addresses))})

    async def close(self) -> None:
        """Answer no more. May be called again."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            await self._tcp.close()
        await self._tasks.close()
        self._locator.close()

    def counts(self) -> DnsCounts:
        """What was counted so far."""
        udp, tcp = self._udp, self._tcp
        if udp is None or tcp is None:
            return NO_COUNTS
        return DnsCounts(
            {"udp": udp.queries, "tcp": tcp.queries},
            dict(self.authority.codes),
            {"rate": self._rate.dropped, "rate_to_tcp": self._rate.cut, "connections": tcp.refused},
            udp.pauses,
            self._share.spent,
            len(tcp),
            self.authority.version or 0,
        )

    def _over_udp(self, query: bytes, source: str) -> bytes | None:
        verdict = self._rate.judge(source)
        if verdict is Verdict.DROP:
            return None
        return self.authority.answer(query, source, largest=UDP_SIZE, cut=verdict is Verdict.CUT)

    def _over_tcp(self, query: bytes, source: str) -> bytes | None:
        return self.authority.answer(query, source, largest=TCP_SIZE)

    async def _load(self) -> None:
        """Until it is loaded, askers count as near this node; so they do if it cannot be read."""
        try:
            await self._locator.load()
        except (GeoError, RuntimeError) as error:
            logger.warning("DNS answers do not look at where resolvers are", extra={"reason": str(error)})
