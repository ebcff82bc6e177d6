"""One of two replicas of the registry hears of changes late: it tells nodes, clients and operators of the past.

Who is led where is decided by what clients have signed, and by the store; a replica's view of it decides nothing alone.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator

import jwt
import pytest
from portway.engine import engine_thread as thread
from portway_proto.v1.admin_pb2 import NODE_ORDER_REMOVE
from portway_proto.v1.lane_pb2 import FAILURE_CODE_REVOKED
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.frames import FrameType
from portway_proto.wire.limits import CLOCK_LEEWAY, PRESENCE_FRESH
from portway_proto.wire.statements import SigningKey
from portway_registry.access.grant_keys import new_key
from portway_registry.nodes.unplaced import UnplacedTunnels
from portway_registry.state import keys
from portway_registry.state.records import encode
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.hand_grants import Grants, HandGrant, grants_of
from portway_testkit.clusters.mesh import NodeIdentities, connected
from portway_testkit.clusters.node_stream import NodeStream, StreamEnded
from portway_testkit.clusters.registry import channel, client_of, node_info
from portway_testkit.clusters.replicas import Replicas, with_a_late_replica
from portway_testkit.fixtures import AsClient
from portway_testkit.links.hand_lane import HandLane
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.links.thief import Thief
from portway_testkit.own_time import OwnTime
from portway_testkit.signers import AnnouncedClient, label_of
from portway_testkit.visitors.onlookers import Onlookers, answered, answered_at_last, named
from portway_testkit.waiting import eventually

Bind = Callable[..., HandTunnel]

REVOKED_WITHIN = 2.0  # seconds, as docs/architecture/trust.md promises


@pytest.fixture
def replicas(make_mesh: Callable[..., Cluster], store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replicas]:
    """fra-2 is linked to the replica that a test makes late, the others to the one that is on time."""
    with with_a_late_replica(make_mesh, store, monkeypatch) as replicas:
        replicas.link("fra-2", to=replicas.mesh_addresses[1:])
        yield replicas


def shown(cluster: Cluster, label: str) -> list[tuple[str, int]]:
    """Node and epoch of a tunnel, as the replica that is on time has it."""
    return [(tunnel.node, tunnel.epoch) for tunnel in cluster.admin.tunnels() if tunnel.label == label]


class Moved:
    """A tunnel that has gone from one node to another one; the late replica knows only of the first."""

    def __init__(
        self, replicas: Replicas, bind: Bind, before: str, home: str, *, meanwhile: Callable[[], object]
    ) -> None:
        mesh, self.key = replicas.mesh, SigningKey()
        self.label = label_of(self.key)
        self.first = bind(mesh, before, "before", self.key, 1)
        self.host = self.first.host
        eventually(lambda: replicas.shown(self.label) == [(before, 1)])
        replicas.hold()
        meanwhile()
        self.own = bind(mesh, home, "own", self.key, 2, grant=self.first.grant)
        eventually(lambda: shown(mesh, self.label) == [(home, 2)])
        assert replicas.shown(self.label) == [(before, 1)]


def served_everywhere(mesh: Cluster, host: str) -> None:
    """Visitors at each node that runs are served by the tunnel, whoever comes."""
    at = [name for name, running in mesh.nodes.items() if running.runs]
    with Onlookers(mesh, {host: "own"}, at) as onlookers:
        eventually(lambda: all(onlookers.answers[node, "own"] > 3 for node in at), shown=lambda: onlookers.unanswered)


@pytest.mark.parametrize("home", ["iad-1", "fra-2"])
def test_a_node_that_was_just_started_is_told_of_the_past(replicas: Replicas, bind: Bind, home: str) -> None:
    """It has heard of nothing else. The node where the tunnel was says that it is there no more."""
    moved = Moved(replicas, bind, "fra-1", home, meanwhile=lambda: None)
    if home != "fra-2":
        replicas.mesh.nodes["fra-2"].restart()
    served_everywhere(replicas.mesh, moved.host)


@pytest.mark.parametrize("node", ["fra-2", "iad-1"])
def test_the_home_of_before_is_gone(replicas: Replicas, bind: Bind, node: str) -> None:
    """Its node was killed with the tunnel at it, and says nothing. The new home is in another region, or the node asks
    that has just been started."""
    mesh = replicas.mesh
    moved = Moved(replicas, bind, "fra-1", "iad-1", meanwhile=mesh.nodes["fra-1"].kill)
    mesh.nodes["fra-2"].restart()
    served_everywhere(mesh, moved.host)


def test_a_route_is_not_taken_back_by_what_was_before(replicas: Replicas, bind: Bind) -> None:
    """A node that knows where the tunnel is asks when its presence was not renewed in time, and is told of the home of
    before."""
    mesh = replicas.mesh
    moved = Moved(replicas, bind, "fra-1", "iad-1", meanwhile=lambda: None)
    served_everywhere(mesh, moved.host)
    for at in ("fra-2", "fra-1"):
        mesh.nodes[at].pass_time(PRESENCE_FRESH + 1)
    served_everywhere(mesh, moved.host)


def test_it_catches_up_with_a_tunnel_that_has_come_back(replicas: Replicas, bind: Bind) -> None:
    """Of what it hears of late, each change ended a binding at the node where the tunnel is now: none ends this one."""
    mesh = replicas.mesh
    moved = Moved(replicas, bind, "fra-2", "iad-1", meanwhile=lambda: None)
    own = bind(mesh, "fra-2", "own", moved.key, 3, grant=moved.first.grant)
    eventually(lambda: shown(mesh, moved.label) == [("fra-2", 3)])
    replicas.release()
    eventually(lambda: replicas.shown(moved.label) == [("fra-2", 3)])
    served_everywhere(mesh, moved.host)
    assert own.unbound is None


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Waits until every replica has looked a few times for tunnels that nothing places."""
    monkeypatch.setattr("portway_registry.nodes.unplaced._LOOKED_EVERY", 0.05)  # in place of a minute
    looks: Counter[UnplacedTunnels] = Counter()
    look = UnplacedTunnels.look

    async def counted(self: UnplacedTunnels) -> None:
        await look(self)
        looks[self] += 1

    monkeypatch.setattr(UnplacedTunnels, "look", counted)

    def wait() -> None:
        looks.clear()
        eventually(lambda: len(looks) == 2 and min(looks.values()) > 3)

    return wait


@pytest.mark.parametrize("hidden", [keys.PRESENCES, keys.TOKENS])
def test_what_a_client_has_opened_is_not_taken_away(
    looked: Callable[[], None], replicas: Replicas, bind: Bind, hidden: str
) -> None:
    """The replica sees the tunnel of its node; it sees neither the presence that places it, or the token that it was
    opened with. It looks in the store before it removes what nothing seems to place."""
    mesh = replicas.mesh
    replicas.hold(hidden)
    own = bind(mesh, "fra-2", "own", grant=grants_of(mesh).new())
    label = own.host.partition(".")[0]
    eventually(lambda: replicas.shown(label) == [("fra-2", 1)])
    looked()
    assert own.unbound is None
    assert shown(mesh, label) == [("fra-2", 1)]
    served_everywhere(mesh, own.host)


def test_a_removed_node_is_out(replicas: Replicas) -> None:
    """By the replica that does not know it yet, too: its lease has ended, and it gets no other one. Nor is it taken in
    when it comes again."""
    mesh = replicas.mesh
    replicas.hold()
    mesh.admin.order("fra-2", NODE_ORDER_REMOVE)
    eventually(lambda: mesh.nodes["fra-2"].was_removed)
    assert "fra-2" not in {node.name for node in mesh.admin.nodes()}
    info = node_info("fra-2", "fra", port=mesh.nodes["fra-2"].port)
    for address in map(str, replicas.mesh_addresses):

        async def register() -> str:
            try:
                async with NodeStream(address, NodeIdentities(mesh), info):
                    return "registered"
            except StreamEnded as ended:
                return ended.details

        assert "removed" in mesh.run(register)
    assert "fra-2" not in {node.name for node in mesh.admin.nodes()}


def test_a_revoked_token_is_worth_nothing_where_it_is_known(
    replicas: Replicas, as_client: AsClient, bind: Bind, own_time: OwnTime
) -> None:
    """The late replica goes on giving grants for it, which no node takes that was told. Within two seconds the tunnels
    end at nodes of the replica that is on time, and so they do at those of the late one when it hears."""
    mesh, token = replicas.mesh, replicas.mesh.token()
    grants = Grants(mesh.environment(token))
    at = {node: bind(mesh, node, node, grant=grants.new()) for node in ("fra-1", "fra-2")}
    kept = bind(mesh, "fra-2", "kept")
    eventually(lambda: all(replicas.shown(one.host.partition(".")[0]) for one in (*at.values(), kept)))
    replicas.hold()
    began = own_time()
    mesh.admin.revoke_token(token)
    eventually(lambda: answered(mesh, "fra-1", at["fra-1"].host) == "")
    assert own_time() - began < REVOKED_WITHIN
    late = Grants(mesh.environment(token) | {"PORTWAY_REGISTRY": replicas.second.address}).new()
    with HandLane(mesh.nodes["iad-1"], mesh.ca) as refused:
        refused.say_hello(late)
        failure = refused.ending()
        assert failure is not None
        assert failure.code == FAILURE_CODE_REVOKED
    began = own_time()
    replicas.release()
    eventually(lambda: answered(mesh, "fra-2", at["fra-2"].host) == "")
    assert own_time() - began < REVOKED_WITHIN
    assert answered_at_last(mesh, "fra-1", kept.host) == "kept"


def signed_by(grant: HandGrant) -> str:
    """The id of the key that signed a grant."""
    return str(jwt.get_unverified_header(grant.token)["kid"])


def test_a_grant_of_a_key_that_it_does_not_know_yet(replicas: Replicas, as_client: AsClient) -> None:
    """Its nodes do not take the grant until they hear of the key. Tunnels open at the others meanwhile, whichever node
    is tried first."""
    mesh = replicas.mesh
    replicas.hold()
    store = replicas.store
    assert store is not None
    key = encode(new_key("2", active_from_ms=time.time_ns() // 1_000_000))
    mesh.run(lambda: store.put(keys.grant_key("2"), key))
    grants = grants_of(mesh)
    # The replica that is on time is some milliseconds behind the store, too: what it signed before, every node takes.
    eventually(lambda: signed_by(grants.several(1)[0]) == "2")

    def taken(node: str) -> bool:
        with HandLane(mesh.nodes[node], mesh.ca) as lane:
            lane.say_hello(grants.new())
            try:
                return lane.hear()[0] == FrameType.WELCOME
            except EOFError:
                return False

    eventually(lambda: taken("fra-1"))
    assert not taken("fra-2")
    as_client(replicas.environment())
    for _ in range(5):
        with named("own") as tunnel:
            served_everywhere(mesh, tunnel.host)
        thread.stop_engine()
    replicas.release()
    eventually(lambda: taken("fra-2"))


def test_a_tunnel_that_it_takes_for_known_is_announced_again(replicas: Replicas) -> None:
    """Its client was away, and the node withdrew it at the other replica, before the node came here and its client
    back. Once the replica hears of the withdrawal it has the node announce its tunnels again; not after one of its
    own."""
    mesh, token = replicas.mesh, replicas.mesh.token()
    on_time, late = map(str, replicas.mesh_addresses)
    mesh.nodes["fra-2"].kill()
    info = node_info("fra-2", "fra", port=mesh.nodes["fra-2"].port)

    async def stays_away() -> tuple[AnnouncedClient, TunnelInfo, int]:
        async with channel(mesh.registry_address, mesh.ca) as public:
            client = await client_of(public, token)
        tunnel = client.tunnel("fra-2")
        async with NodeStream(on_time, NodeIdentities(mesh), info) as node:
            await node.announce(tunnel, of=[client])
            return client, tunnel, node.lease

    async def withdrawn(lease: int) -> None:
        async with NodeStream(on_time, NodeIdentities(mesh), info, lease=lease, batches=1) as node:
            await node.announce(withdrawn=(tunnel,))

    async def come_back(lease: int) -> NodeStream:
        node = NodeStream(late, NodeIdentities(mesh), info, lease=lease)
        await node.open()
        await node.announce(tunnel, of=[client], full=True)
        return node

    client, tunnel, lease = mesh.run(stays_away)
    eventually(lambda: replicas.shown(tunnel.label) == [("fra-2", 1)])
    replicas.hold()
    mesh.run(lambda: withdrawn(lease))
    node = mesh.run(lambda: come_back(lease))
    try:
        eventually(lambda: shown(mesh, tunnel.label) == [])
        replicas.release()
        mesh.run(lambda: node.until(lambda: len(node.registrations) == 2))
        mesh.run(lambda: node.announce(tunnel, of=[client], full=True))
        eventually(lambda: shown(mesh, tunnel.label) == [("fra-2", 1)])
        mesh.run(lambda: node.announce(withdrawn=(tunnel,)))
        eventually(lambda: replicas.shown(tunnel.label) == [])
        mesh.run(node.keep_alive)
        other = client.tunnel("fra-2")
        mesh.run(lambda: node.announce(other, of=[client]))
        assert len(node.registrations) == 2
    finally:
        mesh.run(node.close)


def test_a_home_of_before_that_is_hostile_gains_minutes_by_it(replicas: Replicas, bind: Bind) -> None:
    """It serves visits of a tunnel that has left it, and says nothing. A node that has just been started, and is told
    of it by the late replica, believes the presence from before for as long as any node would: until it is seven
    minutes old if the replica has heard by then, and in no case beyond the leeway of clocks."""
    mesh, key = replicas.mesh, SigningKey()
    thief = Thief(mesh, "fra-1", bind)
    before = bind(mesh, "fra-1", "before", key)
    eventually(lambda: replicas.shown(label_of(key)) == [("fra-1", 1)])
    replicas.hold()
    thief.is_silent_about(key)
    thief.claims(thief.seen(before.grant, key))
    bind(mesh, "iad-1", "own", key, 2, grant=before.grant)
    eventually(lambda: shown(mesh, label_of(key)) == [("iad-1", 2)])
    mesh.nodes["fra-2"].restart()
    eventually(lambda: connected(mesh))
    assert answered_at_last(mesh, "fra-2", before.host) == "thief"
    mesh.nodes["fra-2"].pass_time(PRESENCE_FRESH + CLOCK_LEEWAY + 5, everywhere=True)
    assert answered(mesh, "fra-2", before.host) != "thief"
    mesh.nodes["fra-2"].restart()
    eventually(lambda: connected(mesh))
    assert answered_at_last(mesh, "fra-2", before.host) == "thief"
    replicas.release()
    eventually(lambda: replicas.shown(label_of(key)) == [("iad-1", 2)])
    mesh.nodes["fra-2"].pass_time(PRESENCE_FRESH + 1)
    assert answered_at_last(mesh, "fra-2", before.host) == "own"
