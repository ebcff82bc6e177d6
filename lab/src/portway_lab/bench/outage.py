"""An outage of every registry and of etcd: whether names go on resolving and serving, for as long as it lasts.

The processes are killed and never come back. Each second one node is asked for a tunnel's name, over UDP and with no
cache between, and the tunnel is visited at each address of the answer. Halfway the tunnel's home is killed and started
again; at the end the node that is its home then, for good. Here: the outage and the visits. Not here: processes.
"""

import http.client
import itertools
import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.processes.ports import free_port

from portway_lab.bench.report import Goal
from portway_lab.cluster.clients import NamedTunnel, start_client, wait_tunnels
from portway_lab.cluster.portway import Cluster, NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes, Restartable
from portway_lab.cluster.visits import Ask, ask, connect, visitor_context

_PLACES: Final = {"fra": (50.1, 8.7), "iad": (38.9, -77.4)}
_NODES: Final = {"fra-1": "127.0.0.11", "fra-2": "127.0.0.12", "iad-1": "127.0.0.13"}
_CLIENT_AT: Final = "fra"
_EVERY: Final = 1.0  # seconds between two looks
_ANSWER_WITHIN: Final = 2.0
_VISIT_WITHIN: Final = 10.0
# Seconds until a tunnel whose home was killed must be served again at every address of the answers.
_BACK_WITHIN: Final = 60.0
_ASK: Final = Ask(1_000)


@dataclass(slots=True)
class _Seen:
    """What visitors saw. Each failure says when, in seconds from the outage on."""

    answers: int = 0
    visits: int = 0
    failures: list[str] = field(default_factory=list)


class _Visitors:
    """Resolve the tunnel's name at one node after the other, and visit it at every address that they name."""

    def __init__(self, cluster: Cluster, tunnel: NamedTunnel, servers: dict[str, tuple[str, int]], port: int) -> None:
        """servers: where each node answers DNS. port: where all listen."""
        self._tunnel = tunnel
        self._context = visitor_context(cluster.ca)
        self._servers = servers
        self._port = port
        self._began = time.monotonic()
        self.seen = _Seen()

    def look(self, at: str) -> bool:
        """Ask one node, and visit. Whether all went well; what did not is noted."""
        try:
            addresses = self.addresses(at)
            self.seen.answers += 1
            for address in addresses:
                self._visit(address)
                self.seen.visits += 1
        except (OSError, ssl.SSLError, dns.exception.DNSException) as error:
            after = time.monotonic() - self._began
            self.seen.failures.append(f"after {after:.1f} s, asked at {at}: {error!r}")
            return False
        return True

    def addresses(self, at: str) -> list[str]:
        """What a node answers, the addresses of two or three nodes. Raises OSError and DNSException."""
        host, port = self._servers[at]
        query = dns.message.make_query(self._tunnel.host, "A", use_edns=0)
        answer = dns.query.udp(query, host, timeout=_ANSWER_WITHIN, port=port)
        found = [one.to_text() for one in answer.answer[0]] if answer.answer else []
        if answer.rcode() != dns.rcode.NOERROR or not found:
            raise OSError(f"no address: {dns.rcode.to_text(answer.rcode())}")
        return found

    def _visit(self, address: str) -> None:
        with connect(self._context, f"{address}:{self._port}", self._tunnel, _VISIT_WITHIN) as visitor:
            ask(visitor, self._tunnel, _ASK)


def measure(folder: Path, seconds: float) -> list[Goal]:
    """An outage of so many seconds, and what came after it."""
    with EtcdServer() as etcd, Processes(folder) as processes, _cluster(processes, etcd.url) as (cluster, port):
        client = start_client(processes, "client", ["name"], cluster.exports, flags=["--region", _CLIENT_AT])
        tunnel = wait_tunnels(processes, client)["name"]
        nodes = {node.plan.name: Restartable(processes, node.process) for node in cluster.nodes}
        visitors = _Visitors(cluster, tunnel, {name: _ready(node, "dns_listen") for name, node in nodes.items()}, port)
        _until(lambda: all(len(visitors.addresses(at)) >= 2 and visitors.look(at) for at in nodes), "before the outage")
        Restartable(processes, cluster.registry_process).kill()
        etcd.kill()
        visitors.seen, visitors._began = _Seen(), time.monotonic()
        began = visitors._began
        first, ready = _last(visitors, nodes, seconds)
        outage = visitors.seen
        visitors.seen = _Seen()
        lasted = time.monotonic() - began
        back = _kill(visitors, nodes, _home(nodes))
    for failure in outage.failures:
        print(f"outage: {failure}")
    return [
        Goal("without registry and etcd for", lasted, "s", seconds, at_most=False),
        Goal("names resolved meanwhile", outage.answers, "", note="by each of three nodes in turn"),
        Goal("visits served meanwhile, at each address of an answer", outage.visits, ""),
        Goal("that failed", len(outage.failures), "", 0),
        Goal(
            "its home killed halfway: all answers lead to it after", first, "s", _BACK_WITHIN, note="not counted above"
        ),
        Goal("that node started again: ready and serving after", ready, "s", note="it waits 5 s for a registry"),
        Goal("its home killed at the end: all answers lead to it after", back, "s", _BACK_WITHIN),
    ]


def _last(visitors: _Visitors, nodes: dict[str, Restartable], seconds: float) -> tuple[float, float]:
    """Look each second until the time is over. Returns how long the tunnel was away when its home was killed halfway,
    and how long the start of that node took."""
    began, away, start = time.monotonic(), 0.0, 0.0
    asked = itertools.cycle(nodes)
    while (now := time.monotonic() - began) < seconds:
        if not away and now > seconds / 2:
            home = _home(nodes)
            counted, visitors.seen = visitors.seen, _Seen()
            away = _kill(visitors, nodes, home)
            visitors.seen = counted
            before = time.monotonic()
            nodes[home].start()
            visitors.look(home)
            start = time.monotonic() - before
        visitors.look(next(asked))
        time.sleep(max(0.0, _EVERY - (time.monotonic() - began - now)))
    return away, start


def _kill(visitors: _Visitors, nodes: dict[str, Restartable], name: str) -> float:
    """Kill a node. Returns after how many seconds the tunnel was served at all addresses that the others name."""
    nodes[name].kill()
    killed = time.monotonic()
    _until(lambda: all(visitors.look(at) for at in nodes if at != name), f"after {name} was killed")
    return time.monotonic() - killed


def _home(nodes: dict[str, Restartable]) -> str:
    """The node that holds the tunnel, by its metrics: no registry can be asked."""
    for name, node in nodes.items():
        host, port = _ready(node, "admin_listen")
        with closing(http.client.HTTPConnection(host, port, timeout=_ANSWER_WITHIN)) as connection:
            connection.request("GET", "/metrics")
            if "portway_relay_tunnels 1.0" in connection.getresponse().read().decode().splitlines():
                return name
    raise LookupError("no node holds the tunnel")


def _until(holds: Callable[[], bool], when: str) -> None:
    deadline = time.monotonic() + _BACK_WITHIN
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the tunnel is not served at every address {when}")
        time.sleep(0.1)


@contextmanager
def _cluster(processes: Processes, store: str) -> Iterator[tuple[Cluster, int]]:
    """Three nodes in two regions that joined and answer DNS, all at the same port of addresses of their own."""
    port = free_port()
    plans = tuple(
        NodePlan(
            name,
            name.partition("-")[0],
            *_PLACES[name.partition("-")[0]],
            host=host,
            port=port,
            flags=("--dns-listen", f"{host}:0", "--lame-duck", "0"),
            joins=True,
        )
        for name, host in _NODES.items()
    )
    key = processes.folder / "pki" / "ca.key"  # by which the registry lets nodes join
    yield (
        start_cluster(processes, plans, RegistryPlan(store=f"etcd:{store}", flags=("--cluster-ca-key", str(key)))),
        port,
    )


def _ready(node: Restartable, key: str) -> tuple[str, int]:
    """An address in a node's ready file."""
    assert node.process.ready_file is not None
    host, _, port = json.loads(node.process.ready_file.read_text())[key].rpartition(":")
    return host, int(port)
