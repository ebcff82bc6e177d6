"""The key that signs grants is replaced while clients come and go, and nodes and registries are away."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jwt
import portway
from portway.engine import engine_thread
from portway_proto.v1.admin_pb2 import GRANT_KEY_STATE_SIGNING
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.mesh import connected
from portway_testkit.clusters.replicas import Replicas
from portway_testkit.fixtures import AsClient
from portway_testkit.links.cable import Cable
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.visitors.onlookers import UNHURRIED, Onlookers, answered, named
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.waiting import eventually

Bind = Callable[..., HandTunnel]


class Opening:
    """`with Opening(port) as opening:` opens one tunnel after the other, each as a new client, until the block ends."""

    def __init__(self, port: int) -> None:
        self.opened = 0
        self.failed: Counter[str] = Counter()
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._open, name="opening")

    def __enter__(self) -> "Opening":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _open(self) -> None:
        while not self._over.is_set():
            try:
                with portway.forward(self._port):
                    self.opened += 1
            except portway.Error as error:
                self.failed[str(error)] += 1
            engine_thread.stop_engine()

    def goes_on(self) -> bool:
        """Whether several more have opened since the call, a whole one of them."""
        before = self.opened
        eventually(lambda: self.opened >= before + 5)
        return True


@contextmanager
def opening(origin: HttpOrigin) -> Iterator[Opening]:
    """Fails the block when a tunnel did not open."""
    with Opening(origin.port) as opened:
        yield opened
        assert opened.goes_on()
    assert not opened.failed


def signs(mesh: Cluster, kid: str) -> bool:
    keys = mesh.admin.grant_keys()
    return kid in keys and keys[kid].state == GRANT_KEY_STATE_SIGNING


def test_no_tunnel_notices(replicated: Replicas, as_client: AsClient, bind: Bind, origin: HttpOrigin) -> None:
    """Two rotations at two replicas, a replica that starts anew meanwhile, a node that does: tunnels open without
    pause, and those that were open are visited."""
    mesh = replicated.mesh
    as_client(replicated.environment())
    own, other = bind(mesh, "fra-1", "own"), bind(mesh, "iad-1", "other")
    with (
        Onlookers(mesh, {own.host: "own", other.host: "other"}, attention=UNHURRIED) as onlookers,
        opening(origin) as opened,
    ):
        assert opened.goes_on()
        mesh.admin.rotate_grant_key()
        eventually(lambda: signs(mesh, "2"))
        assert opened.goes_on()
        mesh.stop_registry()
        eventually(lambda: all(node.metrics()["registry_connected"] for node in mesh.nodes.values()))
        assert opened.goes_on()
        mesh.start_registry()
        mesh.admin.rotate_grant_key()
        eventually(lambda: signs(mesh, "3"))
        assert opened.goes_on()
    assert not onlookers.unanswered
    assert own.unbound is None
    assert other.unbound is None
    mesh.nodes["fra-2"].restart()
    eventually(lambda: connected(mesh))
    with named("after") as tunnel:
        for at in mesh.nodes:
            eventually(lambda: answered(mesh, at, tunnel.host) == "after")


def test_a_node_that_was_cut_off_learns_the_key_when_it_is_back(
    make_mesh: Callable[..., Cluster], as_client: AsClient, bind: Bind, origin: HttpOrigin
) -> None:
    """The rotation does not wait for it once its lease is over; its tunnels are served meanwhile, and stay."""
    mesh = make_mesh(lease_seconds=2)
    as_client(mesh.environment())
    with Cable(mesh, "fra-1") as cable:
        eventually(lambda: connected(mesh))
        own, other = bind(mesh, "fra-1", "own"), bind(mesh, "iad-1", "other")
        eventually(lambda: len(mesh.admin.tunnels()) == 2)
        with (
            Onlookers(mesh, {own.host: "own", other.host: "other"}, attention=UNHURRIED) as onlookers,
            opening(origin) as opened,
        ):
            cable.cut_registry()
            mesh.admin.rotate_grant_key()
            eventually(lambda: signs(mesh, "2"))
            assert "fra-1" not in {node.name for node in mesh.admin.nodes()}
            assert opened.goes_on()
            cable.mend_registry()
            eventually(lambda: mesh.nodes["fra-1"].node._serving.grants.key_ids == ["1", "2"])
            eventually(lambda: {t.label for t in mesh.admin.tunnels()} >= {own.host.partition(".")[0]})
            assert opened.goes_on()
        assert not onlookers.unanswered
        assert own.unbound is None


def test_a_running_tunnel_goes_on_with_a_grant_of_the_new_key(
    short_grants: None, mesh: Cluster, as_client: AsClient
) -> None:
    """Renewed in its turn; the key before may be retired by force then, and nothing of it is missed."""
    as_client(mesh.environment())
    with named("own") as tunnel, Onlookers(mesh, {tunnel.host: "own"}, attention=UNHURRIED) as onlookers:
        eventually(lambda: all(onlookers.answers[at, "own"] for at in mesh.nodes))
        onlookers.unanswered.clear()  # before all nodes had heard of it
        mesh.admin.rotate_grant_key()
        eventually(lambda: signs(mesh, "2"))
        eventually(lambda: shown_with(mesh) == {"2"})
        mesh.admin.retire_grant_key("1", force=True)
        eventually(lambda: all(one.node._serving.grants.key_ids == ["2"] for one in mesh.nodes.values()))
        mesh.stop_registry()
        mesh.start_registry()
        eventually(lambda: connected(mesh))
        with named("second") as second:
            eventually(lambda: len(mesh.admin.tunnels()) == 2)
            for at in mesh.nodes:
                eventually(lambda: answered(mesh, at, second.host) == "second")
    assert not onlookers.unanswered


def shown_with(mesh: Cluster) -> set[str]:
    """The ids of the keys that sign the newest grants of all sessions."""

    async def kids() -> set[str]:
        return {
            str(jwt.get_unverified_header(session._tunnels.shown.grant.encoded)["kid"])
            for running in mesh.nodes.values()
            for session in running.node._serving.sessions._sessions.values()
        }

    return mesh.run(kids)
