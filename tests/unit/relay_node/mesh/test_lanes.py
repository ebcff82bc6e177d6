"""Lanes between nodes on real sockets: peers.py, peer.py and control.py at one end, arrivals.py at the other."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trustme
from portway_proto.carry.contract import Outcome, VisitEnd
from portway_proto.carry.python import PythonCarrier
from portway_proto.carry.settings import Address, ClientTls, Limits, ServerTls
from portway_proto.carry.tasks import Tasks
from portway_proto.v1.lane_pb2 import Gone, Routes
from portway_proto.v1.types_pb2 import NodeInfo, TunnelInfo
from portway_proto.wire.frames import Opening, RefusalReason
from portway_proto.wire.limits import MESH_ALPN
from portway_relay.certificates import Identity, LoadedCertificates
from portway_relay.config import Endpoint
from portway_relay.mesh import arrivals as arrivals_module
from portway_relay.mesh import peers as peers_module
from portway_relay.mesh.arrivals import Arrivals
from portway_relay.mesh.certified import Certified
from portway_relay.mesh.peers import Peers
from portway_testkit.carriers import until

SUFFIX = ".node.portway.internal"
OPENING = Opening("k5zq2w7b3xav6mdy", "192.0.2.7", 4711)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certificates(authority: trustme.CA, *names: str) -> LoadedCertificates:
    leaf = authority.issue_cert(*names)
    chain, key = b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes()
    ca = authority.cert_pem.bytes()
    identity: Any = Identity(chain, key, None)  # type: ignore[arg-type]
    mesh = ServerTls(chain, key, alpn=MESH_ALPN, client_ca=ca)
    return LoadedCertificates(ca, (), identity, {}, mesh, mesh, {})


class Node:
    """A node's ends of its mesh lanes. `holds` is what it answers; `heard` what it was told, and by whom."""

    def __init__(self, name: str, region: str, loaded: LoadedCertificates, **limits: Any) -> None:
        self.name = name
        self.region = region
        self.loaded = loaded
        self.holds: dict[str, TunnelInfo] = {}
        self.heard: list[tuple[str, Routes]] = []
        self.strangers: set[str] = set()
        self.wholes: list[tuple[str, set[str]]] = []
        self.contacts: list[tuple[str, bool]] = []
        self.visits: list[Opening] = []
        self.failures: list[BaseException] = []
        self.carrier = PythonCarrier(Limits(ping_interval=0.2))
        self.peers = Peers(
            name,
            region,
            self.carrier,
            lambda: self.loaded,
            self.holds.values,
            on_refused=lambda: self.arrivals.drop_refused(),
            on_failure=self.failures.append,
        )
        self.arrivals = Arrivals(
            self.carrier,
            lambda: self.loaded.mesh_tls,
            self,
            **{"most": 100, "most_of_one": 100, "time_limit": 5.0} | limits,
            clock=time.monotonic,
            on_failure=self.failures.append,
        )
        self.tasks = Tasks("test node")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self._accepting = self.tasks.spawn(self._accept(), name="accept")

    async def _accept(self) -> None:
        while True:
            sock, name = await asyncio.get_running_loop().sock_accept(self._listening)
            self.arrivals.take(sock, Endpoint(*name))

    @property
    def info(self) -> NodeInfo:
        port = self._listening.getsockname()[1]
        return NodeInfo(
            name=self.name, region=self.region, host="127.0.0.1", port=port, server_name=f"{self.name}{SUFFIX}"
        )

    def visit_arrived(self, lane: Any, opening: Opening) -> None:
        self.visits.append(opening)
        lane.refuse(RefusalReason.NOT_HERE)

    def refuses(self, certified: Certified) -> str:
        return self.peers.refuses(certified)

    def routes_told(self, node: str, routes: Routes) -> None:
        self.heard.append((node, routes))

    def is_known(self, node: str) -> bool:
        return node not in self.strangers

    def whole_told(self, node: str, raw_labels: set[str]) -> None:
        self.wholes.append((node, raw_labels))

    def heard_from(self, node: str) -> None:
        self.contacts.append((node, True))

    def lost(self, node: str) -> None:
        self.contacts.append((node, False))

    def held(self, label: str) -> TunnelInfo | None:
        return self.holds.get(label)

    def hold(self, label: str, node: str = "", epoch: int = 1) -> TunnelInfo:
        self.holds[label] = TunnelInfo(label=label, node=node or self.name, epoch=epoch, proof=bytes(32))
        return self.holds[label]

    def drop_lanes(self) -> None:
        for lane in list(self.arrivals._lanes):
            lane.close()

    def stop_listening(self) -> None:
        self._accepting.cancel()
        self._listening.close()

    async def stop(self) -> None:
        await self.tasks.close()
        self._listening.close()
        await self.arrivals.close()
        await self.peers.close()
        await self.carrier.close()


Make = Callable[..., Node]


@pytest.fixture
async def make(authority: trustme.CA) -> AsyncIterator[Make]:
    nodes: list[Node] = []

    def make(name: str, region: str = "fra", loaded: LoadedCertificates | None = None, **limits: Any) -> Node:
        nodes.append(Node(name, region, loaded or certificates(authority, name + SUFFIX), **limits))
        return nodes[-1]

    yield make
    for node in nodes:
        await node.stop()
        assert node.failures == []
        assert len(node.arrivals) == 0


async def test_a_sibling_is_told_everything_and_then_changes(make: Make) -> None:
    """By name, as its certificate says it; in the order in which it happens."""
    one, two = make("one"), make("two")
    first = one.hold("a" * 16)
    one.peers.told([one.info, two.info])
    await until(lambda: bool(two.heard))
    gone = Gone(label="a" * 16, epoch=1)
    one.peers.tell_siblings(None, gone)
    one.peers.tell_siblings(first, None)
    await until(lambda: len(two.heard) == 3)
    assert two.heard == [
        ("one", Routes(bound=[first], whole=True)),
        ("one", Routes(gone=[gone])),
        ("one", Routes(bound=[first])),
    ]
    assert len(one.peers) == 1


async def test_a_sibling_says_when_it_listens(make: Make) -> None:
    """Only news of raw ports are waited for, and all that were told before them have been heard then."""
    one, two = make("one"), make("two")
    one.peers.told([two.info])
    await until(lambda: two.wholes == [("one", set())])
    one.peers.tell_siblings(one.hold("a" * 16), None)
    assert one.peers.unheard() == []
    raw = one.hold("b" * 16)
    raw.unencrypted_port = 20_003
    one.peers.tell_siblings(raw, None)
    unheard = one.peers.unheard()
    assert len(unheard) == 1
    await asyncio.wait_for(unheard[0], 10)
    assert [routes.number for _, routes in two.heard] == [0, 0, 1]
    assert one.peers.unheard() == []


async def test_a_sibling_that_is_lost_is_not_waited_for(make: Make) -> None:
    """Whatever it was told it hears again when it is back."""
    one, two = make("one"), make("two")
    one.peers.told([two.info])
    await until(lambda: bool(two.wholes))
    raw = one.hold("b" * 16)
    raw.unencrypted_port = 20_003
    one.peers.tell_siblings(raw, None)
    unheard = one.peers.unheard()
    two.drop_lanes()
    await asyncio.wait_for(unheard[0], 10)
    await until(lambda: ("one", {"b" * 16}) in two.wholes)
    await until(lambda: one.peers.unheard() == [])


async def test_contact_with_a_node_is_told(make: Make) -> None:
    """When its control lane is there, and when it is gone."""
    one, two = make("one"), make("two")
    one.peers.told([two.info])
    await until(lambda: two.contacts == [("one", True)])
    await one.peers.close()
    await until(lambda: two.contacts == [("one", True), ("one", False)])


async def test_a_node_that_is_not_known_yet_comes_again(make: Make) -> None:
    """What it told would not be believed before a registry has told of it."""
    one, two = make("one"), make("two")
    two.strangers.add("one")
    held = one.hold("a" * 16)
    one.peers.told([two.info])
    await until(lambda: two.carrier.counters.lanes_closed >= 2)
    assert two.heard == []
    two.strangers.clear()
    await until(lambda: two.heard == [("one", Routes(bound=[held], whole=True))])


async def test_nodes_of_other_regions_are_told_nothing(make: Make) -> None:
    """They ask."""
    one, far = make("one"), make("far", "iad")
    held = one.hold("a" * 16)
    far.hold("b" * 16)
    one.peers.told([far.info])
    far.peers.told([one.info])
    await until(lambda: one.peers.answers("far") and far.peers.answers("one"))
    one.peers.tell_siblings(held, None)
    assert await far.peers.ask_region("fra", "a" * 16) == [held]
    assert await far.peers.ask_region("fra", "c" * 16) == []
    assert await far.peers.ask_region("syd", "a" * 16) == []
    assert far.heard == []


async def test_much_is_told_in_many_frames(make: Make) -> None:
    """A node of thousands of tunnels stays below the limit of a frame."""
    one, two = make("one"), make("two")
    labels = [f"{number:016}" for number in range(2000)]
    for label in labels:
        one.hold(label).host = "h" * 200
    one.peers.told([two.info])
    await until(lambda: sum(len(routes.bound) for _, routes in two.heard) == len(labels))
    assert [tunnel.label for _, routes in two.heard for tunnel in routes.bound] == labels
    assert len(two.heard) > 10


async def test_an_answer_for_another_node_or_label_is_none(make: Make) -> None:
    """A node answers for itself alone, and for what it was asked."""
    one, liar = make("one"), make("liar")
    liar.hold("a" * 16, node="third")
    liar.holds["b" * 16] = liar.hold("c" * 16)
    one.peers.told([liar.info])
    await until(lambda: one.peers.answers("liar"))
    assert await one.peers.ask_region("fra", "a" * 16) == []
    assert await one.peers.ask_region("fra", "b" * 16) == []


async def test_a_node_that_does_not_answer_holds_nobody_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the others said counts; nothing of the question is left."""
    monkeypatch.setattr(peers_module, "_ANSWERED_WITHIN", 0.1)
    one, quick, silent = make("one"), make("quick"), make("silent")
    held = quick.hold("a" * 16)
    one.peers.told([quick.info, silent.info])
    await until(lambda: one.peers.answers("quick") and one.peers.answers("silent"))
    peer = one.peers.get("silent")
    assert peer is not None
    asked: list[str] = []

    async def ask(label: str) -> TunnelInfo | None:
        asked.append(label)
        await asyncio.Event().wait()
        return None

    monkeypatch.setattr(peer.control, "ask", ask)
    assert await one.peers.ask_region("fra", "a" * 16) == [held]
    assert asked == ["a" * 16]


async def test_a_lost_node_is_found_again(make: Make, authority: trustme.CA) -> None:
    """Its control lane is dialled until it is back, and it is told everything then."""
    one, two = make("one"), make("two")
    one.hold("a" * 16)
    one.peers.told([two.info])
    await until(lambda: len(two.heard) == 1)
    two.drop_lanes()
    await until(lambda: len(two.heard) == 2)
    assert two.heard[0] == two.heard[1]


async def test_a_node_that_is_listed_no_more_is_kept_while_it_answers(make: Make) -> None:
    """Absence from a list removes nothing that works."""
    one, two = make("one"), make("two")
    one.peers.told([two.info])
    await until(lambda: one.peers.answers("two"))
    one.peers.told([])
    assert one.peers.answers("two")
    assert one.peers.pool_of("two") is not None


async def test_a_node_that_is_listed_no_more_and_silent_is_dropped(make: Make) -> None:
    """It is not dialled for ever."""
    one, two = make("one"), make("two")
    info = two.info
    await two.stop()
    one.peers.told([info])
    assert len(one.peers) == 1
    one.peers.told([])
    assert len(one.peers) == 0
    assert one.peers.pool_of("two") is None
    assert not one.peers.answers("two")


async def test_lanes_are_dialled_anew_to_another_address(make: Make) -> None:
    """The pool of before takes nobody new."""
    one, two, moved = make("one"), make("two"), make("two")
    one.peers.told([two.info])
    await until(lambda: one.peers.answers("two"))
    before = one.peers.pool_of("two")
    one.peers.told([two.info])
    assert one.peers.pool_of("two") is before
    one.peers.told([moved.info])
    await until(lambda: len(moved.arrivals) == 2 and not len(two.arrivals))
    assert one.peers.pool_of("two") is not before


async def test_a_new_certificate_is_for_new_lanes(make: Make, authority: trustme.CA) -> None:
    """What is up stays up, the control lane and warm lanes alike; what is dialled later shows the new one."""
    one, two = make("one"), make("two")
    one.hold("a" * 16)
    one.peers.told([two.info])
    await until(lambda: len(two.arrivals) == 2 and len(two.heard) == 1)
    before, lanes = one.peers.pool_of("two"), set(two.arrivals._lanes)
    assert before is not None
    one.loaded = certificates(authority, "renamed" + SUFFIX)
    one.peers.certificates_changed()
    assert one.peers.pool_of("two") is before
    before.want(1)
    await until(lambda: len(two.arrivals) == 3)
    assert lanes < set(two.arrivals._lanes)
    (fresh,) = set(two.arrivals._lanes) - lanes
    assert fresh.node == "renamed"
    for lane in lanes:
        lane.close()
    await until(lambda: [name for name, _ in two.heard] == ["one", "renamed"])


async def test_a_node_that_stops_is_left_by_those_who_opened_lanes(make: Make) -> None:
    """A visit that was on its way is refused, not cut off: it may be tried elsewhere."""
    one, two = make("one"), make("two")
    one.peers.told([two.info])
    pool = one.peers.pool_of("two")
    assert pool is not None
    await until(lambda: pool.counts.idle == 1 and len(two.arrivals) == 2 and not two.arrivals.waiting)
    near, far = socket.socketpair()
    visitor = one.carrier.accept(near, None)
    await visitor.ready()
    two.stop_listening()
    ends: list[VisitEnd] = []
    one.carrier.join(visitor, pool, OPENING, lambda _, end: ends.append(end))
    await asyncio.sleep(0)  # its OPEN leaves in the next turn, and so does the wish to be left
    closing = one.tasks.spawn(two.arrivals.close(), name="close")
    await until(lambda: bool(ends))
    assert (ends[0].outcome, ends[0].reason) == (Outcome.REFUSED, RefusalReason.NOT_HERE)
    await closing
    assert pool.counts.idle == 0
    far.close()
    assert ends[0].visitor is not None
    ends[0].visitor.abort()
    await until(lambda: near.fileno() == -1)


async def test_a_node_that_does_not_leave_is_waited_for_a_moment(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lanes are cut then."""
    monkeypatch.setattr(arrivals_module, "_LEFT_WITHIN", 0.05)
    one, two = make("one"), make("two")
    one.peers.told([two.info])
    await until(lambda: len(two.arrivals) == 2 and not two.arrivals.waiting)
    monkeypatch.setattr("portway_proto.carry.python.pool.PyPool.lane_retires", lambda pool, lane: None)
    two.stop_listening()
    await two.arrivals.close()
    await until(lambda: len(two.arrivals) == 0)


async def test_a_visit_goes_over_a_warm_lane(make: Make) -> None:
    """One is there before the first visitor comes; what it says arrives unchanged."""
    one, two = make("one"), make("two")
    one.peers.told([two.info])
    pool = one.peers.pool_of("two")
    assert pool is not None
    await until(lambda: pool.counts.idle == 1)
    ours, theirs = socket.socketpair()
    ended: asyncio.Future[VisitEnd] = asyncio.get_running_loop().create_future()
    stream = one.carrier.accept(ours, None)
    one.carrier.join(stream, pool, OPENING, lambda visit, end: ended.set_result(end))
    end = await ended
    assert (end.outcome, end.reason) == (Outcome.REFUSED, RefusalReason.NOT_HERE)
    assert two.visits == [OPENING]
    assert end.visitor is stream
    stream.abort()
    theirs.close()


@pytest.mark.parametrize(
    "names", [("registry.example.com",), ("a" + SUFFIX, "b" + SUFFIX), ("127.0.0.1",)], ids=["none", "two", "address"]
)
async def test_who_is_not_one_node_is_refused(make: Make, authority: trustme.CA, names: tuple[str, ...]) -> None:
    """The cluster's CA signs for others too."""
    stranger, two = make("stranger", loaded=certificates(authority, *names)), make("two")
    stranger.hold("a" * 16)
    stranger.peers.told([two.info])
    await until(lambda: stranger.carrier.counters.lanes_closed > 0)
    assert len(two.arrivals) == 0
    assert two.heard == []


async def test_a_lane_that_says_nothing_is_closed(make: Make, authority: trustme.CA) -> None:
    """It has to say PEER in time, and is counted until it has."""
    two = make("two", time_limit=0.05)
    context = certificates(authority, "one" + SUFFIX)
    one = make("one")
    tls = ClientTls(context.ca, "two" + SUFFIX, MESH_ALPN, context.node.chain, context.node.key)
    stream = one.carrier.connect(Address("127.0.0.1", two.info.port), tls)
    await stream.ready()
    await until(lambda: len(two.arrivals.waiting) == 1)
    await until(lambda: len(two.arrivals) == 0)
    assert not two.arrivals.waiting
    stream.abort()


async def test_handshakes_in_progress_are_bounded(make: Make) -> None:
    """What is above is closed unread."""
    two = make("two", most=1)
    first = socket.create_connection(("127.0.0.1", two.info.port))
    await until(lambda: len(two.arrivals._tasks) == 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", two.info.port)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    first.close()


async def test_a_certificate_of_before_is_refused(make: Make) -> None:
    """Once its name was given anew: lanes that are up are closed, new ones not taken."""
    one, two = make("one"), make("two")
    one.peers.told([two.info])
    two.peers.told([one.info])
    await until(lambda: two.peers.answers("one") and one.peers.answers("two"))
    two.peers.told([one.info], certified_since={"one": 1 << 50})
    await until(lambda: not len(two.arrivals))
    refused = one.carrier.counters.lanes_closed
    await until(lambda: one.carrier.counters.lanes_closed > refused)
    assert not len(two.arrivals)
    two.peers.told([one.info], certified_since={"one": 1})
    await until(lambda: len(two.arrivals) == 2)


async def test_a_certificate_of_another_region_is_refused(make: Make, authority: trustme.CA) -> None:
    """A registry has told which region the node is of, and its certificate says another."""
    loaded = certificates(authority, "one" + SUFFIX, "far.region.portway.internal")
    one, two = make("one", loaded=loaded), make("two")
    two.peers.told([one.info])
    one.peers.told([two.info])
    await until(lambda: one.carrier.counters.lanes_closed > 0)
    assert not len(two.arrivals)
