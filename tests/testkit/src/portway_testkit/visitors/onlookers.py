"""Visitors without pause of several tunnels at several nodes: an answer must come from the tunnel that was asked.

Here: tunnels that answer with their names, visiting them, the answers. Not here: faults; tunnels at a node of the
test's choice (links/hand_tunnel.py).
"""

import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Self

import portway
from portway.tunnel import Tunnel
from portway_proto.v1.admin_pb2 import NODE_ORDER_CORDON, NODE_ORDER_SERVE, NodeOrder
from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, NODE_STATE_READY, NodeState

from portway_testkit.clusters.cluster import LOOPBACK, Cluster
from portway_testkit.own_time import OwnTime
from portway_testkit.visitors.going_on import GoingOn
from portway_testkit.visitors.origins import TcpOrigin, says
from portway_testkit.visitors.recovery import label_of
from portway_testkit.visitors.visiting import connect_tls, receive, tls_context
from portway_testkit.waiting import PATIENCE, eventually

# Seconds. No longer: what a black hole drops afterwards does not matter.
ATTENTION: Final = 3.0
UNHURRIED: Final = 10.0  # where nothing is dropped, and only a busy machine keeps a visitor waiting
_BETWEEN: Final = 0.02  # seconds between two visits of a thread, so that the test's other threads run too


def answered(cluster: Cluster, at: str, host: str, attention: float = ATTENTION) -> str:
    """The name of the tunnel that answers a visitor of `host` at a node; "" if none does in time."""
    running = cluster.nodes[at]
    try:
        with connect_tls(
            tls_context(cluster.visitors_ca), (LOOPBACK, running.port), host, timeout=attention
        ) as visitor:
            return receive(visitor).decode().partition(" ")[0]
    except OSError:
        return ""


def answered_at_last(cluster: Cluster, at: str, host: str) -> str:
    """As `answered` where nothing is lost on the way: only a busy machine keeps the visitor waiting, and the first
    answer counts."""
    return answered(cluster, at, host, PATIENCE)


@contextmanager
def named(name: str, **options: Any) -> Iterator[Tunnel]:
    """A tunnel of this process that answers with its name; `options` are those of portway.forward."""
    with TcpOrigin(says(name)) as origin, portway.forward(origin.port, **options) as tunnel:
        yield tunnel


@contextmanager
def named_at(cluster: Cluster, home: str, name: str, **options: Any) -> Iterator[Tunnel]:
    """The same with its home at a node of the test's choice: the other nodes are cordoned while it is opened."""
    others = [other for other in cluster.nodes if other != home]

    def order(order: "NodeOrder.ValueType", state: "NodeState.ValueType") -> None:
        for other in others:
            cluster.admin.order(other, order)
        eventually(lambda: all(node.state == state for node in cluster.admin.nodes() if node.name != home))

    with ExitStack() as stack:
        order(NODE_ORDER_CORDON, NODE_STATE_CORDONED)
        tunnel = stack.enter_context(named(name, **options))
        order(NODE_ORDER_SERVE, NODE_STATE_READY)
        assert home_of(cluster, tunnel) == home
        yield tunnel


def home_of(cluster: Cluster, tunnel: Tunnel) -> str:
    """The name of the node that holds a tunnel; "" while none does."""

    async def live() -> list[str]:
        label = label_of(tunnel)
        running = cluster.nodes.items()
        return [name for name, one in running if one.runs and one.node._routing.tunnels.live(label) is not None]

    return next(iter(cluster.run(live)), "")


def answered_raw(host: str, port: int, attention: float = ATTENTION) -> str:
    """The same for a visitor of a raw port."""
    try:
        with socket.create_connection((host, port), attention) as visitor:
            return receive(visitor).decode().partition(" ")[0]
    except OSError:
        return ""


class Onlookers(GoingOn):
    """`with Onlookers(cluster, {host: name}) as onlookers:` visits each host at each node, on a thread for each pair.

    At the end of the block every answer must have been the name of its own tunnel; `answers` counts them, by node and
    name. A visitor gives up after `attention` seconds, and counts as `unanswered` unless this process stood still.
    """

    def __init__(
        self,
        cluster: Cluster,
        names: Mapping[str, str],
        at: Iterable[str] | None = None,
        attention: float = ATTENTION,
    ) -> None:
        self.answers: Counter[tuple[str, str]] = Counter()
        self.unanswered: Counter[tuple[str, str]] = Counter()
        self._cluster = cluster
        self._attention = attention
        self._strangers: Counter[str] = Counter()
        self._own_time = OwnTime()
        threads = (
            threading.Thread(target=self._visit, args=(node, host, name), name=f"onlooker of {name} at {node}")
            for node in (cluster.nodes if at is None else at)
            for host, name in names.items()
        )
        super().__init__(threads, PATIENCE)

    def __enter__(self) -> Self:
        self._own_time.__enter__()
        return super().__enter__()

    def __exit__(self, *how: object) -> None:
        super().__exit__(*how)
        self._own_time.__exit__(*how)
        assert not self._strangers, self._strangers

    def _visit(self, node: str, host: str, name: str) -> None:
        while not self._over.wait(_BETWEEN):
            lost = self._own_time.lost()
            answer = answered(self._cluster, node, host, self._attention)
            if answer == name:
                self.answers[node, name] += 1
            elif answer:
                self._strangers[f"a visitor of {name} at {node} was answered by {answer!r}"] += 1
            elif self._own_time.lost() == lost:
                self.unanswered[node, name] += 1
