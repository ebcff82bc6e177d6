"""The registry is reached at a node's public port, and one of its replicas completes handshakes and then answers no
call, which the node cannot see."""

import signal
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import portway
import pytest
from portway_lab.cluster.portway import NodePlan as ProcessPlan
from portway_lab.cluster.portway import RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes, Restartable
from portway_proto.v1 import admin_pb2
from portway_proto.v1.mesh_pb2 import RegistryFront, RegistryFronts
from portway_testkit.clusters.admin_calls import AdminCalls
from portway_testkit.clusters.cluster import DOMAIN, LOOPBACK, Cluster
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.hung_replica import HANG, PROGRAM
from portway_testkit.fixtures import AsClient
from portway_testkit.own_time import OwnTime
from portway_testkit.visitors.going_on import GoingOn
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import serves
from portway_testkit.waiting import eventually

# Seconds, as `forward` gives up after by default.
OPENED_WITHIN = 10.0
# A client's own limit for a call, after which it asks again.
CALL_TIMEOUT = 3.0
HEADER = 16  # bytes of a PROXY header, of which the last two are the length of the rest


class Mute:
    """A replica's public port: it completes handshakes with the registry's certificate, and reads what comes."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._context.set_alpn_protocols(["h2"])
        self._socket = socket.create_server((LOOPBACK, 0))
        self.address = f"{LOOPBACK}:{self._socket.getsockname()[1]}"
        self._inside: set[ssl.SSLSocket] = set()
        self.handshakes = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        with GoingOn([threading.Thread(target=self._serve)]):
            try:
                yield
            finally:
                self._socket.shutdown(socket.SHUT_RDWR)
                self._socket.close()
                for inside in tuple(self._inside):
                    with suppress(OSError):
                        inside.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with suppress(OSError), ThreadPoolExecutor(32) as readers:
            while True:
                readers.submit(self._read, self._socket.accept()[0])

    def _read(self, accepted: socket.socket) -> None:
        with accepted, suppress(OSError):
            self._read_all(accepted)

    def _read_all(self, accepted: socket.socket) -> None:
        start = accepted.recv(HEADER, socket.MSG_PEEK | socket.MSG_WAITALL)
        if start.startswith(b"\r\n\r\n\0\r\nQUIT\n"):  # a node's own connections have none
            accepted.recv(HEADER + int.from_bytes(start[-2:]), socket.MSG_WAITALL)
        with self._context.wrap_socket(accepted, server_side=True) as inside:
            self.handshakes += 1
            self._inside.add(inside)
            while inside.recv(65_536):
                pass


@pytest.mark.timeout(90)
def test_a_replica_that_says_nothing_costs_a_client_one_call(
    make_mesh: Callable[..., Cluster], as_client: AsClient, own_time: OwnTime
) -> None:
    """Nothing but its handshake: the client's second call goes to the other replica, and so does what it asks later.
    The node, which cannot see whose fault it was, takes neither for away."""
    mesh = make_mesh(registry_name=DOMAIN)
    node = mesh.nodes["fra-1"]
    fronts = node.node._serving.fronts
    eventually(lambda: bool(fronts.in_order()))
    mute = Mute(mesh.pki / "registry.crt", mesh.pki / "registry.key")
    good = fronts.in_order()[0]
    listed = [RegistryFront(replica="mute", address=mute.address)]
    listed.append(RegistryFront(replica=good.replica, address=str(good.address)))

    async def learn() -> None:
        fronts.learn(RegistryFronts(name=fronts.name, key=fronts.key, fronts=listed))
        mute_one, _ = fronts.in_order()
        fronts.answered(mute_one)

    as_client(mesh.environment() | {"PORTWAY_REGISTRY": f"{DOMAIN}:{node.port}"})
    with mute.running(), HttpOrigin() as origin:
        mesh.run(learn)
        began, own_began = time.monotonic(), own_time()
        with portway.forward(origin.port) as tunnel:
            assert time.monotonic() - began >= CALL_TIMEOUT
            assert own_time() - own_began < OPENED_WITHIN
            assert serves(tunnel, mesh.ca)
        asked = mute.handshakes
        assert asked >= 1
        began = own_time()
        with portway.forward(origin.port, token=mesh.token()) as tunnel:  # a session of its own, which has to ask
            assert own_time() - began < CALL_TIMEOUT
            assert serves(tunnel, mesh.ca)
        assert mute.handshakes <= asked + 1  # the node's own question, which it answers
        assert [front.away_until for front in fronts.in_order()] == [0, 0]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("which", [0, 1])
def test_a_replica_that_answers_no_call_is_passed_by(
    etcd: EtcdServer, as_client: AsClient, which: int, own_time: OwnTime
) -> None:
    """Whichever it is: its connections stay alive, pings are answered, and no call is."""
    plan = RegistryPlan(store=f"etcd:{etcd.url}", flags=("--registry-name", DOMAIN), program=PROGRAM)
    nodes = (ProcessPlan("fra-1", "fra", 50.1, 8.7),)
    with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
        cluster = start_cluster(processes, nodes, plan, (plan,))
        port = cluster.nodes[0].listen.rpartition(":")[2]
        as_client(cluster.exports | {"PORTWAY_REGISTRY": f"{DOMAIN}:{port}"})
        hung = Restartable(processes, cluster.registry_processes[which])
        with HttpOrigin() as origin:
            with portway.forward(origin.port) as tunnel:
                assert serves(tunnel, cluster.ca)
            hung.signal(HANG)
            admin = AdminCalls(cluster.registries[1 - which], cluster.ca, cluster.admin_token_file.read_text().strip())
            for tenant in ("one", "other"):  # with a token of its own it is a session of its own, which has to ask
                token = admin.create_token(admin_pb2.CreateTokenRequest(tenant=tenant, role=admin_pb2.ROLE_CLIENT))
                began = own_time()
                with portway.forward(origin.port, token=token) as tunnel:
                    assert own_time() - began < OPENED_WITHIN
                    assert serves(tunnel, cluster.ca)
        hung.signal(signal.SIGKILL)
