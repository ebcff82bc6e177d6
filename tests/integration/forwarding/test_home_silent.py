"""A tunnel's home has no power any more: visitors at other nodes wait for its client, and for nothing else.

The client is made by hand: the test says when it is at another node. What the real one does is in faults/.
"""

import asyncio
import hashlib
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import uvloop
from portway_proto.wire.statements import SigningKey
from portway_runtime.shares import PrefixShares
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.links.hand_tunnel import Bind
from portway_testkit.links.power import Power, power_of
from portway_testkit.visitors.mesh_visitors import answer_at, answered_by, connect, name_of
from portway_testkit.waiting import eventually

HOME = "iad-1"
OTHERS = ("fra-1", "fra-2")
# More than there are lanes: the first ones are on lanes that nobody answers, the others wait for one.
VISITORS = 12
SENT = bytes(range(256)) * 400  # more than is kept until OPENED


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Each test runs on both."""
    made: Callable[[], asyncio.AbstractEventLoop] = request.param
    return made


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Visitors wait for as long as two dozen of them take to come, and the client to go, on a busy machine. They
    themselves give up after 30 s."""
    monkeypatch.setattr("portway_relay.visits._PATIENCE", 25.0)


@pytest.fixture
def power(mesh: Cluster) -> Iterator[Power]:
    with power_of(mesh, HOME) as power:
        yield power


@pytest.fixture
def crowd() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2 * VISITORS) as crowd:
        yield crowd


def waiting(mesh: Cluster) -> dict[str, float]:
    """How many visitors each of the other nodes has found to be stuck, or without a lane."""

    async def held() -> dict[str, float]:
        return {name: mesh.nodes[name].node._routing.visits._waiting.held for name in OTHERS}

    return mesh.run(held)


def whole(name: str) -> bytes:
    """The answer to who has sent SENT."""
    return f"{name} {hashlib.sha256(SENT).hexdigest()}\n".encode()


def come(mesh: Cluster, crowd: ThreadPoolExecutor, host: str) -> list[Future[bytes]]:
    """Visitors at both nodes, which send everything at once."""
    return [crowd.submit(answer_at, mesh, at, host, SENT) for at in OTHERS for _ in range(VISITORS)]


@pytest.mark.parametrize("to", OTHERS)
def test_visitors_are_served_where_its_client_went(
    mesh: Cluster, bind: Bind, power: Power, crowd: ThreadPoolExecutor, to: str
) -> None:
    """Whole, each once, at whichever node they came in; those of another tunnel notice nothing."""
    key = SigningKey()
    before = bind(mesh, HOME, "before", key, 2, expected=len(SENT))
    other = bind(mesh, to, "other")
    for at in OTHERS:
        assert answer_at(mesh, at, before.host, SENT) == whole("before")
    seen = len(before.openings)
    power.off()
    visits = come(mesh, crowd, before.host)
    eventually(lambda: all(held == VISITORS for held in waiting(mesh).values()))
    assert not any(visit.done() for visit in visits)
    assert {answered_by(mesh, at, other.host) for at in OTHERS} == {"other"}
    after = bind(mesh, to, "after", key, 3, expected=len(SENT))
    assert [visit.result() for visit in visits] == [whole("after")] * len(visits)
    assert len(after.openings) == len(visits)
    assert len(before.openings) == seen
    assert all(held == 0 for held in waiting(mesh).values())


def test_visitors_at_a_node_that_held_it_before_are_served(
    mesh: Cluster, bind: Bind, power: Power, crowd: ThreadPoolExecutor
) -> None:
    """Its client was there, went to the home that is silent now, and comes back."""
    key = SigningKey()
    bind(mesh, "fra-1", "first", key, 1)
    before = bind(mesh, HOME, "before", key, 2, expected=len(SENT))
    for at in OTHERS:
        eventually(lambda at=at: answer_at(mesh, at, before.host, SENT) == whole("before"))  # type: ignore[misc]
    power.off()
    visits = come(mesh, crowd, before.host)
    eventually(lambda: all(held == VISITORS for held in waiting(mesh).values()))
    bind(mesh, "fra-1", "again", key, 3, expected=len(SENT))
    assert [visit.result() for visit in visits] == [whole("again")] * len(visits)


def test_visitors_of_a_home_that_was_killed_are_served(mesh: Cluster, bind: Bind, crowd: ThreadPoolExecutor) -> None:
    """It resets what it had and refuses to be dialled: they wait for its client all the same, and not for a pause."""
    key = SigningKey()
    before = bind(mesh, HOME, "before", key, 2, expected=len(SENT))
    for at in OTHERS:
        assert answer_at(mesh, at, before.host, SENT) == whole("before")
    mesh.nodes[HOME].kill()
    visits = come(mesh, crowd, before.host)
    eventually(lambda: all(held == VISITORS for held in waiting(mesh).values()))
    bind(mesh, "fra-2", "after", key, 3, expected=len(SENT))
    assert [visit.result() for visit in visits] == [whole("after")] * len(visits)


def test_visitors_are_served_by_a_home_that_is_back(
    mesh: Cluster, bind: Bind, power: Power, crowd: ThreadPoolExecutor
) -> None:
    """The network was away for a moment, and its client has not moved: each is served once."""
    tunnel = bind(mesh, HOME, "back", expected=len(SENT))
    for at in OTHERS:
        assert answer_at(mesh, at, tunnel.host, SENT) == whole("back")
    seen = len(tunnel.openings)
    power.off()
    visits = come(mesh, crowd, tunnel.host)
    eventually(lambda: all(held > 0 for held in waiting(mesh).values()))
    power.on()
    assert [visit.result() for visit in visits] == [whole("back")] * len(visits)
    assert len(tunnel.openings) == seen + len(visits)


def test_a_visit_that_was_there_is_not_repeated(
    mesh: Cluster, bind: Bind, power: Power, crowd: ThreadPoolExecutor
) -> None:
    """What its visitor sent may have been carried out: it ends with the machine that it was on."""
    key = SigningKey()
    before = bind(mesh, HOME, "before", key, 2, expected=len(SENT))
    half = len(SENT) // 2
    with connect(mesh.nodes["fra-1"], before.host, mesh.ca) as visitor:
        visitor.sendall(SENT[:half])
        eventually(lambda: len(before.openings) == 1)
        power.off()
        visitor.sendall(SENT[half:])
        late = crowd.submit(answer_at, mesh, "fra-1", before.host, SENT)
        eventually(lambda: waiting(mesh)["fra-1"] == 1)
        after = bind(mesh, "fra-1", "after", key, 3, expected=len(SENT))
        assert late.result() == whole("after")
        assert len(after.openings) == 1


def test_visitors_do_not_wait_for_ever(
    mesh: Cluster, bind: Bind, power: Power, crowd: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is there: they are told so, and what they hold is free."""
    monkeypatch.setattr("portway_relay.visits._PATIENCE", 2.5)
    tunnel = bind(mesh, HOME, "gone")
    for at in OTHERS:
        assert answered_by(mesh, at, tunnel.host) == "gone"
    power.off()
    request = f"GET / HTTP/1.1\r\nHost: {tunnel.host}\r\nConnection: close\r\n\r\n".encode()
    visits = [crowd.submit(answer_at, mesh, at, tunnel.host, request) for at in OTHERS for _ in range(VISITORS)]
    assert {visit.result().split(b"\r\n")[0] for visit in visits} == {b"HTTP/1.1 503 Service Unavailable"}
    assert all(held == 0 for held in waiting(mesh).values())


def test_so_many_wait_and_the_others_are_told(
    mesh: Cluster, bind: Bind, power: Power, crowd: ThreadPoolExecutor
) -> None:
    """A flood of visitors of a silent node's tunnel takes what it may, and nothing from other tunnels."""

    async def few_places() -> None:
        for at in OTHERS:
            mesh.nodes[at].node._routing.visits._waiting = PrefixShares(4, time.monotonic)

    mesh.run(few_places)
    tunnel, other = bind(mesh, HOME, "silent"), bind(mesh, "fra-1", "other")
    eventually(lambda: len(mesh.admin.tunnels()) == 2)  # the registry tells of it, whose home says nothing
    power.off()
    request = f"GET / HTTP/1.1\r\nHost: {tunnel.host}\r\nConnection: close\r\n\r\n".encode()
    visits = [crowd.submit(answer_at, mesh, at, tunnel.host, request) for at in OTHERS for _ in range(VISITORS)]
    eventually(lambda: sum(visit.done() for visit in visits) >= VISITORS)
    assert {visit.result()[:12] for visit in visits if visit.done()} == {b"HTTP/1.1 503"}
    # One that is stuck gives its place back and takes it again when its lane is lost.
    eventually(lambda: all(0 < held <= 4 for held in waiting(mesh).values()))
    assert {answered_by(mesh, at, other.host) for at in OTHERS} == {"other"}
    power.on()
    assert all(visit.result() for visit in visits)


def test_a_name_that_nobody_has_is_refused_meanwhile(mesh: Cluster, bind: Bind, power: Power) -> None:
    """As fast as ever: who waits does so for a tunnel that is known."""
    bind(mesh, HOME, "silent")
    power.off()
    for at in OTHERS:
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            answered_by(mesh, at, name_of(SigningKey(), "fra"))
