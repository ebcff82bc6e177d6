"""The registry is reached at the public ports of nodes, and one of its replicas, or a node in between, is lost."""

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from portway_lab.cluster.portway import NodePlan as ProcessPlan
from portway_lab.cluster.portway import RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes, Restartable
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_proto.v1.discovery_pb2 import LocateRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_proto.wire.statements import SigningKey
from portway_runtime.grpc_channels import NO_PROXY_OF_ITS_OWN, OWN_CONNECTIONS
from portway_testkit.clusters.cluster import DOMAIN, LOOPBACK, Cluster
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.replicas import Replicas, with_a_replica
from portway_testkit.own_time import OwnTime
from portway_testkit.visitors.going_on import GoingOn
from portway_testkit.waiting import PATIENCE, eventually

# Seconds. A client's own limit for one call.
CALL_TIMEOUT = 3.0
SESSION_KEY = SigningKey().public
OPTIONS = (("grpc.ssl_target_name_override", DOMAIN), *OWN_CONNECTIONS, *NO_PROXY_OF_ITS_OWN)


@dataclass
class Caller:
    """A client that asks the registry at these addresses, on a connection of its own each time."""

    addresses: tuple[str, ...]
    ca: Path
    token: str

    def channel(self) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(self.ca.read_bytes())
        return grpc.secure_channel(f"ipv4:{','.join(self.addresses)}", credentials, OPTIONS)

    @property
    def shown(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),)

    def ask(self) -> None:
        """Ask where nodes are. Raises RpcError."""
        request = LocateRequest(session_key=SESSION_KEY)
        with self.channel() as channel:
            DiscoveryStub(channel).Locate(request, timeout=CALL_TIMEOUT, metadata=self.shown)


class Calls:
    """Calls without pause, by a thread: when each began, and why those failed that did. One that failed while this
    process stood still is none of them: it may have had no time."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.answered: list[float] = []
        self.failed: list[tuple[float, str]] = []
        self._own_time = OwnTime()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Calls":
        self._own_time.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(PATIENCE)
        self._own_time.__exit__()

    def answered_since(self, moment: float) -> int:
        return sum(began > moment for began in self.answered)

    def failed_since(self, moment: float) -> list[str]:
        return [why for began, why in self.failed if began > moment]

    def _run(self) -> None:
        while not self._over.is_set():
            began, lost = time.monotonic(), self._own_time.lost()
            try:
                self._caller.ask()
            except grpc.RpcError as error:
                if self._own_time.lost() == lost:
                    self.failed.append((began, str(error)))
            else:
                self.answered.append(began)
            self._over.wait(0.02)


@dataclass(frozen=True, slots=True)
class Programs:
    """Two replicas and a node as processes of their own, and a client that reaches the registry through the node."""

    replicas: tuple[Restartable, ...]
    caller: Caller


@pytest.fixture
def programs(etcd: EtcdServer) -> Iterator[Programs]:
    flags = ("--registry-name", DOMAIN)
    plan = RegistryPlan(store=f"etcd:{etcd.url}", flags=flags)
    with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
        nodes = (ProcessPlan("fra-1", "fra", 50.1, 8.7),)
        cluster = start_cluster(processes, nodes, plan, (RegistryPlan(flags=flags),))
        caller = Caller((cluster.nodes[0].listen,), cluster.ca, cluster.token)
        replicas = tuple(Restartable(processes, one) for one in cluster.registry_processes)
        yield Programs(replicas, caller)
        for one in replicas:
            if not one.ended():
                one.signal(signal.SIGCONT)


def test_a_replica_that_is_gone_costs_no_later_call(programs: Programs) -> None:
    """Stopped, so that it accepts and never answers, or killed: the other one gets what comes after that."""
    with Calls(programs.caller) as calls:

        def costs_nothing() -> None:
            gone = time.monotonic()
            eventually(lambda: calls.answered_since(gone) > 20, shown=lambda: calls.failed[-1:])
            assert calls.failed_since(gone) == []

        eventually(lambda: len(calls.answered) > 10)
        for replica in programs.replicas:
            replica.signal(signal.SIGSTOP)
            costs_nothing()
            replica.signal(signal.SIGCONT)
        programs.replicas[-1].kill()
        costs_nothing()


@pytest.fixture
def named_replicas(make_mesh: Callable[..., Cluster], etcd: EtcdServer) -> Iterator[Replicas]:
    with with_a_replica(make_mesh(store=f"etcd:{etcd.url}", registry_name=DOMAIN)) as replicas:
        replicas.link(*replicas.mesh.nodes, to=replicas.mesh_addresses)
        mesh = replicas.mesh
        eventually(lambda: all(len(node.node._serving.fronts.in_order()) == 2 for node in mesh.nodes.values()))
        yield replicas


def caller_of(mesh: Cluster, *nodes: str, token: str = "") -> Caller:
    addresses = tuple(f"{LOOPBACK}:{mesh.nodes[name].port}" for name in nodes)
    return Caller(addresses, mesh.ca, token or mesh.token())


def test_a_replica_that_stops_in_order_costs_no_call(named_replicas: Replicas) -> None:
    """Nodes pass nothing on to it any more before it refuses; started again, it is used again."""
    mesh = named_replicas.mesh
    with Calls(caller_of(mesh, "fra-1")) as calls, Calls(caller_of(mesh, "iad-1")) as others:
        eventually(lambda: len(calls.answered) > 10 and len(others.answered) > 10)
        mesh.stop_registry()
        stopped = time.monotonic()
        eventually(lambda: calls.answered_since(stopped) > 10 and others.answered_since(stopped) > 10)
        mesh.start_registry()
        eventually(lambda: all(len(node.node._serving.fronts.in_order()) == 2 for node in mesh.nodes.values()))
        again = time.monotonic()
        eventually(lambda: calls.answered_since(again) > 10 and others.answered_since(again) > 10)
    assert [*calls.failed, *others.failed] == []


def test_the_key_of_headers_is_replaced_without_a_failed_call(
    named_replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several times, at either replica, while clients call through every node; the last time by force, after which
    calls are answered as before."""
    mesh = named_replicas.mesh
    monkeypatch.setattr("portway_registry.nodes.front_key.SETTLED_MS", 0)
    with Calls(caller_of(mesh, "fra-1")) as calls, Calls(caller_of(mesh, "iad-1")) as others:

        def go_on() -> None:
            moment = time.monotonic()
            eventually(lambda: calls.answered_since(moment) > 10 and others.answered_since(moment) > 10)

        go_on()
        used = set()
        for _ in range(4):
            made = mesh.admin.rotate_front_key()
            eventually(lambda: mesh.admin.front_keys()[0].id == made.id)
            used.add(made.id)
            go_on()
        assert len(used) == 4
        assert [*calls.failed, *others.failed] == []
        mesh.admin.rotate_front_key(force=True)
        assert len(mesh.admin.front_keys()) == 1
        go_on()


def test_a_node_that_stops_lets_go_of_an_operator(named_replicas: Replicas, own_time: OwnTime) -> None:
    """Of one that watches, within the grace; its channel goes on through another node."""
    mesh = named_replicas.mesh
    operator = caller_of(mesh, "fra-1", "iad-1", token=mesh.admin.token)
    ended: list[grpc.StatusCode] = []
    with operator.channel() as channel:
        stub = AdminStub(channel)
        stream = stub.WatchNodes(admin_pb2.WatchNodesRequest(), metadata=operator.shown)
        assert next(stream).node.name in mesh.nodes

        def watch() -> None:
            try:
                for _ in stream:
                    pass
            except grpc.RpcError as error:
                ended.append(error.code())

        with GoingOn([threading.Thread(target=watch)]):
            before = own_time()
            mesh.nodes["fra-1"].stop()
            assert own_time() - before < mesh.nodes["fra-1"].config.limits.stop_grace + 5
            eventually(lambda: bool(ended))
        assert ended == [grpc.StatusCode.UNAVAILABLE]
        answer = stub.ListNodes(admin_pb2.ListNodesRequest(), timeout=PATIENCE, metadata=operator.shown)
        assert "iad-1" in {node.name for node in answer.nodes}


def test_a_node_that_is_killed_costs_no_later_call(named_replicas: Replicas) -> None:
    """The next address of the name is another node's."""
    mesh = named_replicas.mesh
    with Calls(caller_of(mesh, "fra-1", "iad-1")) as calls:
        eventually(lambda: len(calls.answered) > 10)
        mesh.nodes["fra-1"].kill()
        gone = time.monotonic()
        eventually(lambda: calls.answered_since(gone) > 10)
        assert calls.failed_since(gone) == []
