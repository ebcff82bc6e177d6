"""One of two replicas of the registry is slow: its process stands still (SIGSTOP), or runs for moments only and answers
seconds late."""

import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import portway
import pytest
from portway.config import Settings
from portway.engine.grpc_registries import CALL_TIMEOUT, GrpcRegistries
from portway_lab.cluster import portway as programs
from portway_lab.cluster.portway import NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes, Restartable
from portway_proto.v1 import admin_pb2
from portway_testkit.clusters.admin_calls import AdminCalls
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.fixtures import AsClient
from portway_testkit.own_time import OwnTime
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import serves
from portway_testkit.waiting import eventually

NODES = (NodePlan("fra-1", "fra", 50.1, 8.7), NodePlan("iad-1", "iad", 39.0, -77.5))
STANDS, RUNS = 1.5, 0.2  # seconds at a time of one that answers late
OTHERS = admin_pb2.CreateTokenRequest(tenant="others", role=admin_pb2.ROLE_CLIENT)
OPENED_WITHIN = 10.0  # seconds, as `forward` gives up after by default


@dataclass(frozen=True, slots=True)
class Slowed:
    """Two replicas, which nodes and clients know in this order, and the first of them as a process."""

    cluster: programs.Cluster
    first: Restartable

    def admin(self, replica: int) -> AdminCalls:
        cluster = self.cluster
        return AdminCalls(cluster.registries[replica], cluster.ca, cluster.admin_token_file.read_text().strip())

    def listed(self, replica: int) -> set[str]:
        return {one.host for one in self.admin(replica).tunnels()}

    @contextmanager
    def slow(self, how: str) -> Iterator[None]:
        over = threading.Event()

        def falter() -> None:
            while not over.is_set():
                self.first.signal(signal.SIGSTOP)
                over.wait(STANDS)
                self.first.signal(signal.SIGCONT)
                over.wait(RUNS)

        faltering = threading.Thread(target=falter, name="falters")
        if how == "stands still":
            self.first.signal(signal.SIGSTOP)
        else:
            faltering.start()
        try:
            yield
        finally:
            over.set()
            if faltering.ident is not None:
                faltering.join()
            self.first.signal(signal.SIGCONT)


@pytest.fixture
def slowed(etcd: EtcdServer) -> Iterator[Slowed]:
    plan = RegistryPlan(store=f"etcd:{etcd.url}")
    with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
        cluster = start_cluster(processes, NODES, plan, (plan,))
        yield Slowed(cluster, Restartable(processes, cluster.registry_process))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["stands still", "answers late"])
def test_tunnels_open_are_renewed_and_serve(slowed: Slowed, as_client: AsClient, how: str, own_time: OwnTime) -> None:
    """A client asks the other replica when the first has not answered within three seconds, and goes on with the one
    that did. Nodes that are linked to the slow one serve, and move to the other if it stands still."""
    cluster = slowed.cluster
    as_client(cluster.exports)
    ca = cluster.ca
    with HttpOrigin() as one, HttpOrigin() as two, portway.forward(one.port) as before:
        eventually(lambda: before.host in slowed.listed(1))
        with slowed.slow(how):
            assert serves(before, ca)
            registries = GrpcRegistries(Settings(cluster.registries, cluster.token, ca.read_bytes()))
            assert own_time.of(lambda: registries.renew(bytes(32))) < 2 * CALL_TIMEOUT
            if how == "stands still":
                assert own_time.of(lambda: registries.renew(bytes(32))) < CALL_TIMEOUT
            opened = portway.forward(two.port, token=slowed.admin(1).create_token(OTHERS))
            began = own_time()
            with opened as tunnel:  # with a token of its own it is a session of its own, which has to ask
                assert own_time() - began < OPENED_WITHIN
                assert serves(tunnel, ca)
                eventually(lambda: slowed.listed(1) >= {before.host, tunnel.host})
                assert serves(before, ca)
        eventually(lambda: slowed.listed(0) == slowed.listed(1) == {before.host})
        assert serves(before, ca)
