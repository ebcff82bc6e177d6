"""Whether clients can reach a node: who dials its address, what its record says then, and when it is tried again."""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trustme
from portway_proto.v1.mesh_pb2 import Probed
from portway_proto.v1.types_pb2 import (
    REACH_FAILED,
    REACH_REACHED,
    REACH_TRYING,
    REACH_UNSPECIFIED,
    NodeInfo,
    Reach,
)
from portway_proto.wire.limits import LINK_ALPN
from portway_registry.nodes import reachability as module
from portway_registry.nodes.outbox import Outbox
from portway_registry.nodes.reachability import Prober, dialler
from portway_runtime.address_scopes import NOT_THIS_NODE, Scope
from portway_testkit.clusters.registry import node_info
from portway_testkit.links.carrier_link import until

ALLOWED = frozenset({Scope.GLOBAL, Scope.LOOPBACK})


class Session:
    """A node's session as far as it is asked and told."""

    def __init__(self, name: str, **info: Any) -> None:
        self.info: NodeInfo = node_info(name, **info)
        self.outbox = Outbox()
        self.serving = True
        self.published = 0
        self.reach_details = ""

    def publish(self) -> None:
        self.published += 1


class Stage:
    """Sessions, and a registry whose own tries end as the test says."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.dialled: list[str] = []
        self.own = ""
        self.prober = Prober(self.sessions, self._dial)  # type: ignore[arg-type]
        self.answering: list[asyncio.Task[None]] = []

    async def _dial(self, node: NodeInfo) -> str:
        self.dialled.append(node.name)
        return self.own

    def session(self, name: str, answer: str | None = None, **info: Any) -> Session:
        """A node; asked to try another's address it gives this answer, or none."""
        session = self.sessions[name] = Session(name, **info)
        if answer is not None:
            self.answering.append(asyncio.ensure_future(self._answer(session, answer)))
        return session

    async def _answer(self, session: Session, answer: str) -> None:
        while True:
            for message in await session.outbox.take():
                if message.HasField("probe"):
                    asked = message.probe.number
                    # What another node says of it is nobody's business.
                    self.prober.answered("stranger", Probed(number=asked, failure="a lie"))
                    self.prober.answered(session.info.name, Probed(number=asked, failure=answer))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    for task in stage.answering:
        task.cancel()
    await asyncio.gather(*stage.answering, return_exceptions=True)
    assert not stage.prober._pending


def reach(session: Session) -> tuple["Reach.ValueType", str]:
    return session.info.reach, session.info.reach_failure


async def test_where_nobody_tries_every_node_counts() -> None:
    """Whatever the node says of itself."""
    session = Session("fra-1", reach=REACH_FAILED, reach_failure="x")
    await Prober({}, None).probe_first(session, None)  # type: ignore[arg-type]
    assert reach(session) == (REACH_UNSPECIFIED, "")


async def test_the_first_node_is_tried_from_here(stage: Stage) -> None:
    """There is nobody else to ask."""
    session = stage.session("fra-1")
    await stage.prober.probe_first(session, None)  # type: ignore[arg-type]
    assert reach(session) == (REACH_REACHED, "")
    assert stage.dialled == ["fra-1"]


async def test_other_nodes_are_asked_first(stage: Stage) -> None:
    """When one of them gets there nobody tries from here."""
    stage.session("iad-1", "")
    stage.session("iad-2", "no way")
    session = stage.session("fra-1")
    await stage.prober.probe_first(session, None)  # type: ignore[arg-type]
    assert reach(session) == (REACH_REACHED, "")
    assert stage.dialled == []


async def test_one_that_is_cut_off_itself_does_not_keep_others_out(stage: Stage) -> None:
    """What the registry reaches is reached."""
    stage.session("iad-1", "no route to host")
    session = stage.session("fra-1")
    await stage.prober.probe_first(session, None)  # type: ignore[arg-type]
    assert reach(session) == (REACH_REACHED, "")
    assert stage.dialled == ["fra-1"]


async def test_when_all_fail_each_outcome_is_told_without_details(stage: Stage) -> None:
    """With who has tried. Details say what is open in the network of whoever has tried."""
    stage.session("iad-1", "Connection refused")
    stage.own = f"{NOT_THIS_NODE}: what answers there is called db.internal"
    session = stage.session("fra-1")
    await stage.prober.probe_first(session, None)  # type: ignore[arg-type]
    found, failure = reach(session)
    assert found == REACH_FAILED
    assert failure == "from node iad-1: unreachable; from the registry: not this node"


async def test_details_are_in_the_registrys_log(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """At most 300 characters of them, however long a node's are."""
    stage.session("iad-1", "unreachable: [192.0.2.1]:443: Connection refused")
    stage.own = "unreachable: no answer" + "!" * 500
    session = stage.session("fra-1")
    await stage.prober.probe_first(session, None)  # type: ignore[arg-type]
    trying = asyncio.ensure_future(stage.prober.probe_until_reached(session))  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "portway_registry.nodes.reachability"):
        (told,) = await session.outbox.take()
    trying.cancel()
    await asyncio.wait([trying])
    (record,) = caplog.records
    assert "from node iad-1: unreachable: [192.0.2.1]:443: Connection refused; " in record.__dict__["reason"]
    assert len(record.__dict__["reason"]) == 300
    assert told.reachability.failure == "from node iad-1: unreachable; from the registry: unreachable"


async def test_a_registration_does_not_wait_for_a_black_hole(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose address nobody answers at is registered all the same, as not yet reached."""
    monkeypatch.setattr(module, "_FIRST_PROBE_TIMEOUT", 0.01)
    stage.session("iad-1")  # it never answers
    session = stage.session("fra-1")
    await stage.prober.probe_first(session, None)  # type: ignore[arg-type]
    assert reach(session) == (REACH_TRYING, "")


async def test_who_does_not_hear_is_not_asked(stage: Stage) -> None:
    """Nodes that register at the same moment would wait for each other."""
    stage.session("iad-1").serving = False
    session = stage.session("fra-1")
    await stage.prober.probe_first(session, None)  # type: ignore[arg-type]
    assert reach(session) == (REACH_REACHED, "")
    assert stage.dialled == ["fra-1"]


@pytest.mark.parametrize(
    ("known", "tried"),
    [
        pytest.param({"reach": REACH_REACHED}, False, id="reached"),
        pytest.param({"reach": REACH_REACHED, "port": 444}, True, id="at another address"),
        pytest.param({"reach": REACH_FAILED, "reach_failure": "x"}, True, id="not reached"),
        pytest.param({}, True, id="by a release that did not look"),
    ],
)
async def test_what_was_reached_is_not_tried_again(stage: Stage, known: dict[str, Any], tried: bool) -> None:
    """As long as its record stands and its address is the same."""
    session = stage.session("fra-1")
    await stage.prober.probe_first(session, node_info("fra-1", **known))  # type: ignore[arg-type]
    assert reach(session) == (REACH_REACHED, "")
    assert bool(stage.dialled) is tried


async def test_it_is_tried_until_it_is_reached(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node is told of each change, and its record is written: not for each try."""
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    stage.own = "refused"
    session = stage.session("fra-1")
    await stage.prober.probe_first(session, None)  # type: ignore[arg-type]
    trying = asyncio.ensure_future(stage.prober.probe_until_reached(session))  # type: ignore[arg-type]
    (told,) = await session.outbox.take()
    assert (told.reachability.reach, told.reachability.failure) == (REACH_FAILED, "from the registry: unreachable")
    await until(lambda: len(stage.dialled) >= 4)
    assert session.published == 0
    stage.own = ""
    await trying
    (told,) = await session.outbox.take()
    assert told.reachability.reach == REACH_REACHED
    assert session.published == 1


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dial that ends by itself has all the time that a busy machine needs."""
    monkeypatch.setattr(module, "DIAL_TIMEOUT", 20.0)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@contextlib.asynccontextmanager
async def listening(
    authority: trustme.CA, name: str = "fra-1.node.portway.internal", *, alpn: str = LINK_ALPN
) -> AsyncIterator[NodeInfo]:
    """Where node fra-1 says that it is, somebody answers by this name, once."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    context.set_alpn_protocols([alpn])

    def serve() -> None:
        plain, _ = server.accept()
        with plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as accepted:
            accepted.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield node_info("fra-1", port=server.getsockname()[1])
        finally:
            await asyncio.to_thread(thread.join)  # what is aborted is closed by the loop


async def test_a_node_that_answers_is_reached(authority: trustme.CA) -> None:
    """With its own certificate, as a client's lane would be taken."""
    async with listening(authority) as node:
        assert await dialler(authority.cert_pem.bytes, ALLOWED)(node) == ""


@pytest.mark.parametrize(
    ("name", "alpn", "says"),
    [
        ("fra-2.node.portway.internal", LINK_ALPN, "not this node: what answers there does not show its certificate"),
        ("fra-1.node.portway.internal", "h2", "not this node: what answers there does not accept clients' lanes"),
    ],
)
async def test_somebody_else_is_not_the_node(authority: trustme.CA, name: str, alpn: str, says: str) -> None:
    """Another node's certificate; a web server."""
    async with listening(authority, name, alpn=alpn) as node:
        assert says in await dialler(authority.cert_pem.bytes, ALLOWED)(node)


async def test_another_authority_s_node_is_not_the_node(authority: trustme.CA) -> None:
    """Whoever has only the name."""
    async with listening(trustme.CA()) as node:
        assert "does not show its certificate" in await dialler(authority.cert_pem.bytes, ALLOWED)(node)


async def test_why_nobody_answers_is_told(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, silent, and a name that leads nowhere."""
    dial = dialler(authority.cert_pem.bytes, ALLOWED)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        node = node_info("fra-1", port=taken.getsockname()[1])
        assert (await dial(node)).lower() == "unreachable: connection refused"
        taken.listen()
        with monkeypatch.context() as impatient:
            impatient.setattr(module, "DIAL_TIMEOUT", 0.2)
            assert await dial(node) == "unreachable: no answer within 0.2 s"
    failure = await dial(node_info("fra-1", host="x" * 64 + ".invalid"))
    assert failure.startswith("unreachable: the name ")
    assert "cannot be resolved" in failure


async def test_nothing_that_another_node_reports_is_passed_on(stage: Stage) -> None:
    """The record of the node that was tried goes to everybody; the log has at most 300 bytes of it, on one line."""
    stage.own = "refused"
    stage.session("iad-1", "no way\n" + "é" * 1_000_000)
    session = stage.session("fra-1")
    await stage.prober.probe_first(session, None)  # type: ignore[arg-type]
    assert session.info.reach_failure == "from node iad-1: unreachable; from the registry: unreachable"
    details = session.reach_details
    assert details.startswith("from node iad-1: no way é")
    assert details.isprintable()
    assert len(details.encode()) <= 300


class Places(Stage):
    """A stage on which the registry reaches nodes at some addresses, host:port, and no others."""

    def __init__(self, *reached: str) -> None:
        super().__init__()
        self.reached = set(reached)

    async def _dial(self, node: NodeInfo) -> str:
        self.dialled.append(f"{node.host}:{node.port}")
        return "" if self.dialled[-1] in self.reached else "unreachable: Connection refused"


def stated(places: Places, *addresses: str, **info: Any) -> Session:
    return places.session("fra-1", host="fra-1.example", port=8443, addresses=addresses, **info)


async def test_public_addresses_count_where_the_node_was_reached() -> None:
    """At its port, or at that of https, which a balancer has in its place. The others are not in its record."""
    places = Places("fra-1.example:8443", "8.8.8.1:8443", "8.8.8.3:443")
    session = stated(places, "8.8.8.1", "8.8.8.2", "8.8.8.3")
    await places.prober.probe_first(session, None)  # type: ignore[arg-type]
    assert list(session.info.addresses) == ["8.8.8.1", "8.8.8.3"]
    assert reach(session) == (REACH_REACHED, "in no DNS answer: 8.8.8.2, from the registry: unreachable")


async def test_a_node_that_is_not_reached_has_no_public_address() -> None:
    places = Places("8.8.8.1:8443")
    session = stated(places, "8.8.8.1")
    await places.prober.probe_first(session, None)  # type: ignore[arg-type]
    assert reach(session)[0] == REACH_FAILED
    assert not session.info.addresses
    assert places.dialled == ["fra-1.example:8443"]


async def test_an_advertised_address_is_dialled_once() -> None:
    places = Places("8.8.8.1:8443")
    session = places.session("fra-1", host="8.8.8.1", port=8443, addresses=["8.8.8.1"])
    await places.prober.probe_first(session, None)  # type: ignore[arg-type]
    assert list(session.info.addresses) == ["8.8.8.1"]
    assert places.dialled == ["8.8.8.1:8443"]


async def test_what_was_reached_before_counts_at_the_same_place() -> None:
    """A node that comes back is in answers at once; what it states anew is dialled."""
    places = Places("8.8.8.2:8443")
    session = stated(places, "8.8.8.2", "8.8.8.1")
    known = node_info("fra-1", host="fra-1.example", port=8443, addresses=["8.8.8.1"], reach=REACH_REACHED)
    await places.prober.probe_first(session, known)  # type: ignore[arg-type]
    assert list(session.info.addresses) == ["8.8.8.2", "8.8.8.1"]
    assert places.dialled == ["8.8.8.2:8443"]
    moved = stated(places, "8.8.8.1", version="x")
    known.port = 9443
    places.reached.add("fra-1.example:8443")
    await places.prober.probe_first(moved, known)  # type: ignore[arg-type]
    assert not moved.info.addresses


async def test_an_address_is_tried_until_it_is_reached(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The record gets it then, and the node's log an end of the warning."""
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    places = Places("fra-1.example:8443")
    session = stated(places, "8.8.8.1")
    await places.prober.probe_first(session, None)  # type: ignore[arg-type]
    trying = asyncio.ensure_future(places.prober.probe_until_reached(session))  # type: ignore[arg-type]
    await until(lambda: places.dialled.count("8.8.8.1:8443") > 2)
    assert "in no DNS answer" in caplog.text
    assert not session.info.addresses
    places.reached.add("8.8.8.1:8443")
    await trying
    assert (list(session.info.addresses), reach(session)) == (["8.8.8.1"], (REACH_REACHED, ""))
    assert session.published == 1
