"""portway.engine.search: which nodes are tried, in which order, and what is kept of those that did not do."""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from portway.engine import dialling
from portway.engine import search as search_module
from portway.engine.dialogue import SessionCredentials, Welcomed
from portway.engine.directory import Directory, Grant, Located, Node
from portway.engine.failures import Failure
from portway.engine.search import Refused, Resumption, Search
from portway.engine.session import SessionOver
from portway.engine.signer import Signer
from portway.errors import AuthError, Error, UnreachableError
from portway_carrier.errors import CarrierError, ConnectFailed
from portway_carrier.values import ClientTls, Handshake
from portway_proto.v1.lane_pb2 import FailureCode
from portway_proto.wire.limits import LINK_ALPN
from portway_proto.wire.statements import signed_greeting
from portway_runtime.endpoints import Endpoint
from portway_testkit.signers import CLUSTER, CLUSTER_ID

FULL = Failure(FailureCode.FAILURE_CODE_OVERLOADED, "full")
REVOKED = Failure(FailureCode.FAILURE_CODE_REVOKED, "revoked")
GRANT = Failure(FailureCode.FAILURE_CODE_GRANT, "of another cluster")
VERSION = Failure(FailureCode.FAILURE_CODE_VERSION, "too new")
KEY = SessionCredentials(b"id", b"secret")
SIGNER = Signer()
SIGNER.learn(CLUSTER_ID, 0)
EVENTS: Any = None  # nothing comes of these sessions


def node(name: str, region: str = "fra") -> Node:
    return Node(name, region, Endpoint(f"{name}.test", 443), f"{name}.node.portway.internal", "tunnels.test")


class FakeStream:
    def __init__(self, name: str, outcome: object) -> None:
        self.name = name
        self.outcome = outcome
        self.aborted = False

    async def ready(self) -> Handshake:
        if isinstance(self.outcome, CarrierError):
            raise self.outcome
        if self.outcome == "silent":
            await asyncio.Event().wait()
        return Handshake("h2" if self.outcome == "not a node" else LINK_ALPN, self.name.encode(), 0.0)

    def abort(self) -> None:
        self.aborted = True


class FakeCarrier:
    """`outcomes` says by a node's name how its dial and its HELLO go; what is not in it goes well."""

    def __init__(self) -> None:
        self.outcomes: dict[str, object] = {}
        self.dialled: list[FakeStream] = []
        self.tls: list[ClientTls] = []

    def connect(self, address: Endpoint, tls: ClientTls, via: object = None) -> FakeStream:
        name = address.host.removesuffix(".test")
        self.tls.append(tls)
        self.dialled.append(FakeStream(name, self.outcomes.get(name)))
        return self.dialled[-1]

    @property
    def names(self) -> list[str]:
        return [stream.name for stream in self.dialled]


class FakeSession:
    """HELLO goes as the stream's outcome says."""

    hellos: ClassVar[list[tuple[str, str, SessionCredentials | None]]] = []
    dropped: ClassVar[int] = 0

    def __init__(self, carrier: FakeCarrier, stream: FakeStream, events: object, node: Node) -> None:
        self._stream = stream
        self.node = node

    async def hello(self, grant: str, signature: bytes, resume: SessionCredentials | None) -> Welcomed:
        certificate = self._stream.name.encode()
        greeting = signed_greeting(SIGNER.session_key, CLUSTER, self.node.name, certificate, signature)
        assert greeting.is_genuine()
        FakeSession.hellos.append((self._stream.name, grant, resume))
        outcome = self._stream.outcome
        if isinstance(outcome, Failure):
            raise SessionOver(outcome.message, outcome)
        if outcome == "mute":
            await asyncio.Event().wait()
        return Welcomed(KEY, False, 60.0, 0, 0.0)

    def drop(self) -> None:
        FakeSession.dropped += 1


class FakeRegistries:
    def __init__(self, *nodes: Node) -> None:
        self.nodes = nodes
        self.error: Error | None = None
        self.asked = 0
        self.new_tunnels: list[int] = []

    def locate(self, session_key: bytes, new_tunnels: int, limit: int) -> Located:
        self.asked += 1
        self.new_tunnels.append(new_tunnels)
        if self.error is not None:
            raise self.error
        return Located(self.nodes, b"ca", Grant(f"grant {self.asked}", 100.0), cluster_id=CLUSTER_ID)

    def renew(self, session_key: bytes) -> Grant:
        raise NotImplementedError


@pytest.fixture
def carrier(monkeypatch: pytest.MonkeyPatch) -> FakeCarrier:
    monkeypatch.setattr(search_module, "Session", FakeSession)
    monkeypatch.setattr(FakeSession, "hellos", [])
    monkeypatch.setattr(FakeSession, "dropped", 0)
    return FakeCarrier()


@pytest.fixture
def search(carrier: FakeCarrier) -> Callable[[FakeRegistries], Search]:
    return lambda registries: Search(carrier, Directory(registries, SIGNER), SIGNER)  # type: ignore[arg-type]


async def test_the_registry_s_order_is_followed(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """Down to the first that takes the session, which gets the grant; the dial trusts the cluster's CA alone."""
    carrier.outcomes = {"a": ConnectFailed("refused"), "b": FULL}
    searching = search(FakeRegistries(node("a"), node("b"), node("c"), node("d")))
    attached = await searching.attach(EVENTS)
    assert attached.session.node == node("c")
    assert carrier.names == ["a", "b", "c"]
    assert FakeSession.hellos == [("b", "grant 1", None), ("c", "grant 1", None)]
    assert carrier.tls[0] == ClientTls(b"ca", "a.node.portway.internal", LINK_ALPN)


async def test_each_that_failed_is_kept_with_its_reason(
    carrier: FakeCarrier, search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason was."""
    monkeypatch.setattr(dialling, "DIAL_TIMEOUT", 0.01)
    carrier.outcomes = {"a": ConnectFailed("refused"), "b": FULL, "c": "silent", "d": "not a node"}
    searching = search(FakeRegistries(*map(node, "abcd")))
    with pytest.raises(UnreachableError, match="no relay node could be reached") as raised:
        await searching.attach(EVENTS)
    assert [(attempt.name, attempt.reason) for attempt in raised.value.attempts] == [
        ("a", "refused"),
        ("b", "full"),
        ("c", "no connection within 0.01 s"),
        ("d", "it is not a relay node, or not of this protocol version"),
    ]
    assert raised.value.attempts[0].address == "a.test:443"
    assert [stream.aborted for stream in carrier.dialled] == [False, False, True, True]


async def test_a_revocation_is_one_node_s_word(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """What a second one says, too, is so: no third one is asked."""
    carrier.outcomes = {"a": REVOKED}
    searching = search(FakeRegistries(*map(node, "abc")))
    assert (await searching.attach(EVENTS)).session.node == node("b")
    carrier.outcomes = {"a": REVOKED, "b": REVOKED}
    carrier.dialled.clear()
    with pytest.raises(Refused, match="revoked"):
        await search(FakeRegistries(*map(node, "abc"))).attach(EVENTS)
    assert carrier.names == ["a", "b"]


async def test_a_registry_is_asked_about_a_revocation(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """It answers for the token; nobody else is dialled."""
    registries = FakeRegistries(*map(node, "ab"))
    searching = search(registries)
    await searching.attach(EVENTS)
    carrier.outcomes = {"a": REVOKED}
    carrier.dialled.clear()
    registries.error = AuthError("unknown token")
    with pytest.raises(AuthError, match="unknown token"):
        await searching.attach(EVENTS)
    assert carrier.names == ["a"]


async def test_a_revocation_of_the_only_node_is_final(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """A registry knows no other. While none answers it may still be wrong."""
    registries = FakeRegistries(node("a"))
    searching = search(registries)
    await searching.attach(EVENTS)
    carrier.outcomes = {"a": REVOKED}
    registries.error = UnreachableError("down")
    for _ in range(2):
        with pytest.raises(UnreachableError):
            await searching.attach(EVENTS)
    registries.error = None
    with pytest.raises(Refused, match="revoked"):
        await searching.attach(EVENTS)


async def test_a_refusal_of_the_only_node_for_now_is_not_final(
    carrier: FakeCarrier, search: Callable[..., Search]
) -> None:
    """A registry has named another one before, which takes no clients at the moment."""
    registries = FakeRegistries(*map(node, "ab"))
    searching = search(registries)
    await searching.attach(EVENTS)
    registries.nodes = (node("a"),)
    carrier.outcomes = {"a": REVOKED, "b": REVOKED}
    with pytest.raises(UnreachableError):
        await searching.attach(EVENTS, avoided=node("b"))
    carrier.outcomes = {"b": REVOKED}
    assert (await searching.attach(EVENTS)).session.node == node("a")


async def test_a_session_that_ended_with_a_revocation_asks_a_registry_first(
    carrier: FakeCarrier, search: Callable[..., Search]
) -> None:
    """Then another node, whose acceptance settles it, and whose refusal too."""
    registries = FakeRegistries(*map(node, "ab"))
    searching = search(registries)
    await searching.attach(EVENTS)
    searching.ended(node("a"), REVOKED)
    registries.error = UnreachableError("down")
    carrier.dialled.clear()
    assert (await searching.attach(EVENTS, avoided=node("a"))).session.node == node("b")
    assert registries.asked == 2
    assert carrier.names == ["b"]
    searching.ended(node("b"), REVOKED)
    with pytest.raises(Refused, match="revoked"):
        searching.ended(node("a"), REVOKED)
    searching.ended(node("b"), FULL)


async def test_known_nodes_come_before_the_registry(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """It is asked when none of them does; those that it names again are not tried again."""
    registries = FakeRegistries(node("a"), node("b"))
    searching = search(registries)
    await searching.attach(EVENTS)
    await searching.attach(EVENTS)
    assert registries.asked == 1
    carrier.outcomes = {"a": FULL, "b": FULL}
    registries.nodes = (node("b"), node("c"))
    carrier.dialled.clear()
    assert (await searching.attach(EVENTS)).session.node == node("c")
    assert carrier.names == ["a", "b", "c"]


async def test_a_stale_grant_is_replaced_once(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """The same nodes are asked again with the fresh one; refused again, that is the answer."""
    searching = search(FakeRegistries(node("a")))
    await searching.attach(EVENTS)
    carrier.outcomes = {"a": GRANT}
    FakeSession.hellos.clear()
    with pytest.raises(Refused, match="of another cluster"):
        await searching.attach(EVENTS)
    assert [grant for _, grant, _ in FakeSession.hellos] == ["grant 1", "grant 2"]


@pytest.mark.parametrize("failure", [GRANT, VERSION])
async def test_what_one_node_holds_against_a_client_another_may_not(
    carrier: FakeCarrier, search: Callable[..., Search], failure: Failure
) -> None:
    """A node whose clock is wrong, or whose release is too old, stands in nobody's way."""
    carrier.outcomes = {"a": failure}
    searching = search(FakeRegistries(*map(node, "abc")))
    assert (await searching.attach(EVENTS)).session.node == node("b")
    assert searching.attempts[0].reason == failure.message


@pytest.mark.parametrize("failures", [(GRANT, GRANT), (VERSION, GRANT)])
async def test_what_all_nodes_hold_against_a_client_ends_the_search(
    carrier: FakeCarrier, search: Callable[..., Search], failures: tuple[Failure, Failure]
) -> None:
    """With the first one's reason."""
    carrier.outcomes = dict(zip("ab", failures, strict=True))
    with pytest.raises(Refused, match=failures[0].message):
        await search(FakeRegistries(*map(node, "ab"))).attach(EVENTS)
    assert carrier.names == ["a", "b"]


@pytest.mark.parametrize("other", [ConnectFailed("refused"), FULL])
async def test_nodes_that_could_not_say_may_still_take_it(
    carrier: FakeCarrier, search: Callable[..., Search], other: object
) -> None:
    """So it is worth another try, though each that could say has refused."""
    carrier.outcomes = {"a": GRANT, "b": other}
    with pytest.raises(UnreachableError) as raised:
        await search(FakeRegistries(*map(node, "ab"))).attach(EVENTS)
    assert [attempt.name for attempt in raised.value.attempts] == ["a", "b"]


async def test_a_node_that_is_left_has_not_refused(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """Better than none, it may be gone back to."""
    carrier.outcomes = {"b": GRANT}
    with pytest.raises(UnreachableError):
        await search(FakeRegistries(*map(node, "ab"))).attach(EVENTS, avoided=node("a"))


async def test_without_a_registry_the_grant_is_shown_to_the_others_too(
    carrier: FakeCarrier, search: Callable[..., Search]
) -> None:
    """No fresh one is to be had."""
    registries = FakeRegistries(*map(node, "ab"))
    searching = search(registries)
    await searching.attach(EVENTS)
    carrier.outcomes = {"a": GRANT}
    registries.error = UnreachableError("nobody there")
    assert (await searching.attach(EVENTS)).session.node == node("b")


async def test_the_node_of_the_session_comes_first(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """And no other is shown its key."""
    searching = search(FakeRegistries(*map(node, "abc")))
    carrier.outcomes = {"b": FULL}
    await searching.attach(EVENTS, Resumption("b", KEY))
    assert FakeSession.hellos == [("b", "grant 1", KEY), ("a", "grant 1", None)]


async def test_a_node_that_leaves_is_avoided(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """Even when it is the only one."""
    searching = search(FakeRegistries(node("a"), node("b")))
    assert (await searching.attach(EVENTS, avoided=node("a"))).session.node == node("b")
    carrier.outcomes = {"b": FULL}
    with pytest.raises(UnreachableError):
        await searching.attach(EVENTS, avoided=node("a"))
    assert "a" not in carrier.names


async def test_the_region_of_open_tunnels_comes_first(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """Visitors of their names arrive there; home itself is tried though it is not listed, then other regions."""
    searching = search(FakeRegistries(node("a", "iad"), node("b")))
    carrier.outcomes = {"b": FULL, "home": FULL}
    assert (await searching.attach(EVENTS, home=node("home"))).session.node == node("a", "iad")
    assert carrier.names == ["b", "home", "a"]


async def test_no_registry_and_no_node(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """The error lists both."""
    registries = FakeRegistries(node("a"))
    searching = search(registries)
    await searching.attach(EVENTS)
    carrier.outcomes = {"a": FULL}
    registries.error = UnreachableError("nobody there")
    with pytest.raises(UnreachableError, match="no relay node could be reached, and no registry") as raised:
        await searching.attach(EVENTS)
    assert [str(attempt) for attempt in raised.value.attempts] == [
        "a (a.test:443): full",
        "the registry: nobody there",
    ]


async def test_what_the_registry_refuses_is_its_own_error(carrier: FakeCarrier, search: Callable[..., Search]) -> None:
    """It says more than any node."""
    registries = FakeRegistries()
    registries.error = AuthError("unknown token")
    with pytest.raises(AuthError, match="unknown token"):
        await search(registries).attach(EVENTS)


@pytest.mark.parametrize("outcome", ["silent", "mute"])
async def test_a_search_that_is_cancelled_leaves_no_connection(
    carrier: FakeCarrier, search: Callable[..., Search], outcome: str
) -> None:
    """And says whom it was waiting for."""
    carrier.outcomes = {"a": FULL, "b": outcome}
    searching = search(FakeRegistries(node("a"), node("b")))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await searching.attach(EVENTS)
    assert [attempt.reason for attempt in searching.attempts] == ["full", "no answer yet"]
    assert carrier.dialled[1].aborted == (outcome == "silent")
    assert FakeSession.dropped == (outcome == "mute")


async def test_one_silent_node_is_not_waited_for_before_a_registry_is_asked(
    carrier: FakeCarrier, search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is all that is known, and was silent for ten seconds already; it is dialled again beside the others."""
    monkeypatch.setattr(search_module, "SILENT_PATIENCE", 0.01)
    registries = FakeRegistries(node("a"))
    searching = search(registries)
    await searching.attach(EVENTS)
    carrier.outcomes = {"a": "silent"}
    registries.nodes = (node("a"), node("b"))
    carrier.dialled.clear()
    assert (await searching.attach(EVENTS, Resumption("a", KEY, silent=True))).session.node == node("b")
    assert carrier.names == ["a", "a", "b"]
    assert [stream.aborted for stream in carrier.dialled] == [True, True, False]


async def test_one_silent_node_is_waited_for_when_no_registry_answers(
    carrier: FakeCarrier, search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as any other: it may be this side's network that was away."""
    monkeypatch.setattr(search_module, "SILENT_PATIENCE", 0.01)
    monkeypatch.setattr(dialling, "DIAL_TIMEOUT", 0.05)
    registries = FakeRegistries(node("a"))
    searching = search(registries)
    await searching.attach(EVENTS)
    carrier.outcomes = {"a": "silent"}
    registries.error = UnreachableError("no registry")
    with pytest.raises(UnreachableError, match="no relay node could be reached, and no registry"):
        await searching.attach(EVENTS, Resumption("a", KEY, silent=True))
    del carrier.outcomes["a"]
    connect = carrier.connect

    def silent_at_first(*asked: Any) -> FakeStream:
        stream = connect(*asked)
        if len(carrier.dialled) == 1:
            stream.outcome = "silent"
        return stream

    monkeypatch.setattr(carrier, "connect", silent_at_first)
    carrier.dialled.clear()
    assert (await searching.attach(EVENTS, Resumption("a", KEY, silent=True))).session.node == node("a")
    assert carrier.names == ["a", "a"]
