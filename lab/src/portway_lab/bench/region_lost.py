"""A region is lost in silence while visitors come from three: what the addresses in DNS answers cost and save.

Each region has two nodes that answer DNS, and visitors with a resolver near to them: it asks the nearest name server
that answers, keeps an answer for its TTL, and gives its addresses in random order, as resolvers do. A visitor looks the
name up each time, tries the next address after 250 ms, and gives up after 30 s. Then both nodes of one region are cut
off. The tunnel's home is in another. Here: visitors, resolvers, the fault. Not here: the map (cluster/regions.py).
"""

import asyncio
import random
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode
from portway_runtime.dialling import race

from portway_lab.bench.report import Goal
from portway_lab.cluster.clients import NamedTunnel, start_client, wait_tunnels
from portway_lab.cluster.network import Network, Place, start_network
from portway_lab.cluster.portway import Cluster, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes
from portway_lab.cluster.regions import DISTANCES, node_plan
from portway_lab.cluster.visits import Ask, visitor_context

_REGIONS: Final = ("fra", "iad", "nrt")
_LOST: Final = "fra"
_HOME: Final = "iad"
_VISITS_PER_SECOND: Final = 20.0  # of all regions together
_GIVES_UP_AFTER: Final = 30.0
_SERVER_ANSWERS_WITHIN: Final = 1.0
_SETTLE: Final = 3.0
_PORT: Final = 443
_ASK: Final = Ask(1_000)
_FLAGS: Final = ("--connections-per-second", "10000", "--connection-burst", "10000")


@dataclass(frozen=True, slots=True)
class _Visited:
    """When a visit began, in seconds of time.monotonic; how long it took; why it failed, if it did."""

    began: float
    seconds: float
    failure: str = ""


@dataclass(slots=True)
class _Resolver:
    """Answers from memory until their TTL is over, in random order; else from the first server that answers."""

    servers: list[str]  # the nearest first
    name: str
    until: float = 0.0
    addresses: list[str] = field(default_factory=list)
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def look_up(self) -> list[str]:
        """Raises OSError when no server answers."""
        async with self.asking:
            if time.monotonic() >= self.until:
                await self._ask()
        return random.sample(self.addresses, len(self.addresses))

    async def _ask(self) -> None:
        query = dns.message.make_query(self.name, "A", use_edns=0)
        for server in list(self.servers):
            try:
                answer = await dns.asyncquery.udp(query, server, timeout=_SERVER_ANSWERS_WITHIN)
            except (dns.exception.DNSException, OSError):
                self.servers.append(self.servers.pop(0))  # resolvers keep away from a server that is silent
                continue
            if answer.rcode() == dns.rcode.NOERROR and answer.answer:
                self.addresses = [one.to_text() for one in answer.answer[0]]
                self.until = time.monotonic() + answer.answer[0].ttl
                return
        raise OSError("no name server answers")


class _Visitors:
    """The visitors of one region, on a thread and a loop of their own in its place."""

    def __init__(self, network: Network, place: str, tunnel: NamedTunnel, resolver: _Resolver, ca: Path) -> None:
        self._network = network
        self._place = place
        self._tunnel = tunnel
        self._resolver = resolver
        self._context = visitor_context(ca)
        self._thread = threading.Thread(target=self._run, name=f"visitors in {place}")
        self._over = threading.Event()
        self.visits: list[_Visited] = []

    def __enter__(self) -> "_Visitors":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with self._network.inside(self._place):
            asyncio.run(self._come())

    async def _come(self) -> None:
        async with asyncio.TaskGroup() as visits:
            while not self._over.is_set():
                visits.create_task(self._visit())
                await asyncio.sleep(len(_REGIONS) / _VISITS_PER_SECOND * random.uniform(0.5, 1.5))

    async def _visit(self) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(_GIVES_UP_AFTER):
                await self._opened(await self._resolver.look_up())
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError) as error:  # TimeoutError is an OSError
            self.visits.append(_Visited(began, time.monotonic() - began, repr(error)))
        else:
            self.visits.append(_Visited(began, time.monotonic() - began))

    async def _opened(self, addresses: Sequence[str]) -> None:
        """The first address that accepts the connection serves the visit."""
        sock = await race(addresses, _connect, socket.socket.close)
        reader, writer = await asyncio.open_connection(sock=sock, ssl=self._context, server_hostname=self._tunnel.host)
        try:
            writer.write(_ASK.request(self._tunnel.name, self._tunnel.host))
            expected = _ASK.expected(self._tunnel.name)
            if await reader.readexactly(len(expected)) != expected:
                raise ConnectionError("wrong bytes")
        finally:
            writer.transport.abort()


async def _connect(address: str) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (address, _PORT))
    except BaseException:
        sock.close()
        raise
    return sock


def measure(folder: Path, seconds: float) -> list[Goal]:
    """So many seconds of visits before the fault, and three times as many after it; with answers that lead out of the
    region, and with such as do not."""
    goals = []
    for other_region in ("yes", "no"):
        own = folder / other_region
        own.mkdir()
        goals += _measure(own, seconds, other_region)
    return goals


def _measure(folder: Path, seconds: float, other_region: str) -> list[Goal]:
    places = (
        *(Place(f"{region}-{number}", region) for region in _REGIONS for number in (1, 2)),
        Place("registry", _HOME),
        Place("client", _HOME, access=2.0),
        *(Place(f"visitor-{region}", region, access=4.0) for region in _REGIONS),
    )
    with Processes(folder) as processes, ExitStack() as stack:
        network = start_network(processes, places, DISTANCES)
        cluster = _cluster(processes, network, "--dns-other-region", other_region)
        flags = ["--region", _HOME]
        client = start_client(processes, "client", ["name"], cluster.exports, network.prefix("client"), flags)
        tunnel = wait_tunnels(processes, client)["name"]
        by_region = {
            region: stack.enter_context(
                _Visitors(network, f"visitor-{region}", tunnel, _resolver(network, region, tunnel), cluster.ca)
            )
            for region in _REGIONS
        }
        time.sleep(_SETTLE)
        began = time.monotonic()
        time.sleep(seconds)
        lost = time.monotonic()
        for gone in (f"{_LOST}-1", f"{_LOST}-2"):
            for place in places:
                if place.name != gone:
                    network.cut(gone, place.name)
        time.sleep(3 * seconds)
        stack.close()
    goals, which = [], f"other region: {other_region}"
    for region, visitors in by_region.items():
        before = [one.seconds * 1000 for one in visitors.visits if began <= one.began < lost - 1 and not one.failure]
        note = f"median {statistics.median(before):.0f} ms of {len(before)}"
        goals.append(Goal(f"{which}; a visit from {region}, mean", statistics.mean(before), "ms", note=note))
    for region, visitors in by_region.items():
        after = [one for one in visitors.visits if one.began >= lost]
        failed = [one for one in after if one.failure]
        longest = max((one.seconds for one in after), default=0.0)
        note = f"of {len(after)} since {_LOST} was lost; the longest took {longest:.1f} s"
        bound = 0 if other_region == "yes" else None
        goals.append(Goal(f"{which}; visits from {region} that failed", len(failed), "", bound, note=note))
    return goals


def _cluster(processes: Processes, network: Network, *flags: str) -> Cluster:
    plans = tuple(
        node_plan(
            network,
            f"{region}-{number}",
            region,
            *(*_FLAGS, *flags),
            *("--dns-listen", f"{network.address(f'{region}-{number}')}:53"),
        )
        for region in _REGIONS
        for number in (1, 2)
    )
    registry = RegistryPlan(host=network.address("registry"), prefix=network.prefix("registry"))
    return start_cluster(processes, plans, registry)


def _resolver(network: Network, region: str, tunnel: NamedTunnel) -> _Resolver:
    nearest = [region, *(other for other in _REGIONS if other != region)]
    return _Resolver([network.address(f"{each}-{number}") for each in nearest for number in (1, 2)], tunnel.host)
