"""What nodes say of one label arrives late, twice, and in any order: at other nodes, and at a registry."""

import itertools
import random
import time
from collections.abc import Callable, Iterator

import pytest
from portway_proto.v1.lane_pb2 import Answer, Ask, Gone, Peer, Routes
from portway_proto.wire.frames import FrameType
from portway_proto.wire.limits import PROTOCOL_VERSION
from portway_proto.wire.statements import SigningKey
from portway_testkit.clusters.cluster import LOOPBACK, Cluster
from portway_testkit.clusters.mesh import NodeIdentities, identity
from portway_testkit.clusters.node_stream import NodeStream
from portway_testkit.clusters.registry import channel, client_of, node_info
from portway_testkit.links.hand_lane import HandLane
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.signers import AnnouncedClient, SessionSigner, label_of, tunnel_info
from portway_testkit.visitors.onlookers import answered_at_last
from portway_testkit.waiting import eventually

Bind = Callable[..., HandTunnel]

# Of a node that moves a tunnel to itself twice, and lets go of it twice.
NEWS = ("bound 1", "gone 1", "bound 2", "gone 2")


def routes(signer: SessionSigner, key: SigningKey, news: str) -> Routes:
    kind, epoch = news.split()
    if kind == "gone":
        return Routes(gone=[Gone(label=label_of(key), epoch=int(epoch))])
    claim = signer.claim(key, node="fra-2", epoch=int(epoch))
    presence = signer.present("fra-2", claim, time_ms=int(time.time() * 1000))
    return Routes(bound=[tunnel_info(claim, "fra")], presences=[presence.encoded])


@pytest.fixture
def lane(mesh: Cluster) -> Iterator[HandLane]:
    """The control lane of fra-2, which has died, to fra-1: what it still had to say arrives now."""
    mesh.nodes["fra-2"].kill()
    with HandLane(mesh.nodes["fra-1"], mesh.ca, identity(mesh, "fra-2")) as lane:
        lane.say(FrameType.PEER, Peer(version=PROTOCOL_VERSION, control=True).SerializeToString())
        yield lane


def heard(lane: HandLane) -> None:
    """Wait until all that was said has been heard."""
    lane.say(FrameType.ASK, Ask(request=1, label="a").SerializeToString())
    assert lane.hear() == (FrameType.ANSWER, Answer(request=1).SerializeToString())


def test_in_whatever_order_they_come_the_highest_epoch_is_found(mesh: Cluster, lane: HandLane, bind: Bind) -> None:
    """Every order of a node's news, each said twice, changes nothing about a tunnel that is elsewhere by now."""
    other = bind(mesh, "iad-1", "other")
    for number, order in enumerate(itertools.permutations(NEWS)):
        key = SigningKey()
        own = bind(mesh, "iad-1", "own", key, 3)
        signer = SessionSigner(own.grant.signer.cluster)
        if number % 2:  # known before the late news come, or not
            assert answered_at_last(mesh, "fra-1", own.host) == "own"
        for news in (*order, *order):
            lane.say(FrameType.ROUTES, routes(signer, key, news).SerializeToString())
        heard(lane)
        assert answered_at_last(mesh, "fra-1", own.host) == "own", order
        assert answered_at_last(mesh, "fra-1", other.host) == "other"
        own.leave()


def test_late_news_of_a_label_do_not_take_it_from_the_node_itself(mesh: Cluster, lane: HandLane, bind: Bind) -> None:
    """Its own tunnel has a higher epoch than all that comes."""
    key = SigningKey()
    own = bind(mesh, "fra-1", "own", key, 3)
    signer = SessionSigner(own.grant.signer.cluster)
    for order in itertools.permutations(NEWS):
        for news in order:
            lane.say(FrameType.ROUTES, routes(signer, key, news).SerializeToString())
    heard(lane)
    assert own.unbound is None
    for at in ("fra-1", "iad-1"):
        assert answered_at_last(mesh, at, own.host) == "own"


def test_a_registry_that_hears_an_old_batch_again_keeps_the_newer(mesh: Cluster, bind: Bind) -> None:
    """A node's batches, repeated and out of order by lot, among them withdrawals of what others hold."""
    lot = random.Random(7)
    mesh.nodes["fra-2"].kill()
    own, gone = SigningKey(), SigningKey()
    tunnel = bind(mesh, "iad-1", "own", own, 3)
    eventually(lambda: shown(mesh) == [(label_of(own), "iad-1", 3)])
    info = node_info("fra-2", "fra", host=LOOPBACK, port=mesh.nodes["fra-2"].port)

    token = mesh.token()

    async def client() -> AnnouncedClient:
        async with channel(mesh.registry_address, mesh.ca) as public:
            return await client_of(public, token)

    async def connect() -> NodeStream:
        stream = NodeStream(str(mesh.registry_config.mesh_listen), NodeIdentities(mesh), info)
        await stream.open()
        return stream

    stream, of = mesh.run(connect), mesh.run(client)
    try:
        made = {(key, epoch): of.tunnel("fra-2", key, epoch) for key in (own, gone) for epoch in (1, 2)}
        batches = list(made) * 4
        lot.shuffle(batches)
        for batch in batches:
            tunnels = [made[batch]]
            mesh.run(lambda: stream.announce(*tunnels, of=[of]))
            if lot.random() < 0.5:
                mesh.run(lambda: stream.announce(withdrawn=tuple(tunnels)))
            assert (label_of(own), "iad-1", 3) in shown(mesh)
        mesh.run(lambda: stream.announce(made[gone, 2], of=[of]))
        mesh.run(lambda: stream.announce(made[gone, 1], of=[of], withdrawn=(made[gone, 1],)))
        last = of.tunnel("fra-2", epoch=9)  # once it is shown, so is what was announced before
        mesh.run(lambda: stream.announce(last, of=[of]))
        eventually(lambda: (last.label, "fra-2", 9) in shown(mesh))
        expected = [(label_of(own), "iad-1", 3), (label_of(gone), "fra-2", 2), (last.label, "fra-2", 9)]
        assert sorted(shown(mesh)) == sorted(expected)
        assert answered_at_last(mesh, "fra-1", tunnel.host) == "own"
        assert tunnel.unbound is None
    finally:
        mesh.run(stream.close)


def shown(cluster: Cluster) -> list[tuple[str, str, int]]:
    return [(tunnel.label, tunnel.node, tunnel.epoch) for tunnel in cluster.admin.tunnels()]
