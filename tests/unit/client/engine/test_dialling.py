"""portway.engine.dialling: what a connection must be like, what it says of the distance, and racing connections."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from portway.engine import dialling, race_rule
from portway.engine.dialling import DialFailed, RaceRecord, at_least, dial, race
from portway.engine.directory import Node, RoundTrip
from portway.engine.race_rule import RACERS
from portway_carrier.errors import CarrierError, ConnectFailed, HandshakeFailed, TlsSettingsError
from portway_carrier.values import ClientTls, Handshake
from portway_proto.wire.limits import LINK_ALPN
from portway_runtime.endpoints import Endpoint

NODE = Node("fra-1", "fra", Endpoint("192.0.2.1", 443), "fra-1.node.portway.internal", "tunnels.test")


class FakeStream:
    """Is ready with what it was given, or never."""

    def __init__(self, outcome: Handshake | CarrierError | None) -> None:
        self.outcome = outcome
        self.aborted = False

    async def ready(self) -> Handshake:
        if self.outcome is None:
            await asyncio.Event().wait()
        if isinstance(self.outcome, CarrierError):
            raise self.outcome
        assert self.outcome is not None
        return self.outcome

    def abort(self) -> None:
        self.aborted = True


class FakeCarrier:
    def __init__(self, outcome: Handshake | CarrierError | None) -> None:
        self.stream = FakeStream(outcome)
        self.asked: list[tuple[Endpoint, ClientTls]] = []

    def connect(self, address: Endpoint, tls: ClientTls, via: object = None) -> Any:
        self.asked.append((address, tls))
        if isinstance(self.stream.outcome, TlsSettingsError):
            raise self.stream.outcome
        return self.stream


async def test_the_node_is_verified_by_its_name_and_the_cluster_s_ca() -> None:
    """And asked for lanes."""
    carrier = FakeCarrier(Handshake(LINK_ALPN, None, 0.05, 0.02))
    dialled = await dial(carrier, NODE, b"ca")  # type: ignore[arg-type]
    assert dialled.stream is carrier.stream
    assert carrier.asked == [(NODE.address, ClientTls(b"ca", NODE.server_name, LINK_ALPN))]


@pytest.mark.parametrize(("kernel", "ms"), [(0.0125, 12.5), (None, 25.0)])
async def test_a_round_trip_is_the_kernel_s_or_half_of_both_handshakes(kernel: float | None, ms: float) -> None:
    """TCP's and that of TLS are one each; `took` is both, with all that is in it."""
    carrier = FakeCarrier(Handshake(LINK_ALPN, None, 0.05, kernel))
    dialled = await dial(carrier, NODE, b"ca")  # type: ignore[arg-type]
    assert dialled.round_trip == RoundTrip("fra-1", ms)
    assert dialled.took == 0.05


@pytest.mark.parametrize(
    ("outcome", "reason", "short"),
    [
        (ConnectFailed("nobody listens", refused=True), "nobody listens", "refused"),
        (ConnectFailed("no such host"), "no such host", "unreachable"),
        (HandshakeFailed("of another CA", untrusted=True), "of another CA", "wrong certificate"),
        (HandshakeFailed("garbage"), "garbage", "TLS failed"),
        (TlsSettingsError("no CA"), "no CA", "failed"),
        (Handshake("h2", None, 0.05, 0.02), "it is not a relay node", "no relay node"),
        (Handshake(None, None, 0.05, 0.02), "it is not a relay node", "no relay node"),
    ],
)
async def test_what_is_no_node_says_nothing_of_the_distance(outcome: Any, reason: str, short: str) -> None:
    """A refusal may come from anywhere on the way."""
    carrier = FakeCarrier(outcome)
    with pytest.raises(DialFailed, match=reason) as raised:
        await dial(carrier, NODE, b"ca")  # type: ignore[arg-type]
    assert raised.value.round_trip is None
    assert raised.value.short == short
    assert carrier.stream.aborted == isinstance(outcome, Handshake)


async def test_who_does_not_answer_is_known_to_be_no_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Than half of the time it had."""
    monkeypatch.setattr(dialling, "DIAL_TIMEOUT", 0.01)
    carrier = FakeCarrier(None)
    with pytest.raises(DialFailed, match="no connection within") as raised:
        await dial(carrier, NODE, b"ca")  # type: ignore[arg-type]
    assert raised.value.short == "timed out after 0.01 s"
    assert raised.value.round_trip == at_least(NODE, 0.01) == RoundTrip("fra-1", 5.0, at_least=True)
    assert carrier.stream.aborted


SOON = 0.0  # a stagger that is over at once
LATER = 60.0  # one that does not end within a test


class Dial:
    """One connection that is made, or not, when the test says so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.aborted = False
        self.outcome: asyncio.Future[Handshake] = asyncio.get_running_loop().create_future()

    async def ready(self) -> Handshake:
        return await self.outcome

    def up(self) -> None:
        self.outcome.set_result(Handshake(LINK_ALPN, None, 0.2, 0.012))

    def down(self) -> None:
        self.outcome.set_exception(ConnectFailed("refused"))

    def abort(self) -> None:
        self.aborted = True


class Track:
    """The carrier: `dials` by name, in the order in which they were begun."""

    def __init__(self) -> None:
        self.dials: dict[str, Dial] = {}
        self.begun = asyncio.Event()

    def connect(self, address: Endpoint, tls: ClientTls, via: object = None) -> Dial:
        dial = self.dials[address.host] = Dial(address.host)
        self.begun.set()
        return dial

    async def until_dialled(self, *names: str) -> None:
        while list(self.dials) != list(names):
            self.begun.clear()
            await self.begun.wait()


def node(name: str) -> Node:
    return Node(name, "fra", Endpoint(name, 443), f"{name}.node.portway.internal", "tunnels.test")


class Runners:
    """A race that runs: `taken` is who was ready first."""

    def __init__(self, track: Track, names: str, stagger: float, racers: int = RACERS) -> None:
        self.course = RaceRecord()
        self._track = track
        self._race = race(track, [node(name) for name in names], b"ca", self.course, stagger, racers)  # type: ignore[arg-type]
        self._first = asyncio.ensure_future(self._run())

    async def _run(self) -> str | None:
        async with aclosing(self._race) as ready:
            async for found, _ in ready:
                return found.name
        return None

    async def taken(self) -> str | None:
        return await self._first

    async def cancel(self) -> None:
        self._first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._first


@pytest.fixture
async def track() -> Track:
    return Track()


async def test_the_first_to_be_ready_is_taken(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order in which they were dialled; the others are dropped without a trace."""
    monkeypatch.setattr(race_rule, "STAGGER", SOON)
    runners = Runners(track, "abc", SOON)
    await track.until_dialled("a", "b", "c")
    track.dials["b"].up()
    assert await runners.taken() == "b"
    assert track.dials["a"].outcome.cancelled()
    assert track.dials["c"].outcome.cancelled()


async def test_two_that_are_ready_together_leave_one_connection(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is not taken is closed."""
    monkeypatch.setattr(race_rule, "STAGGER", SOON)
    runners = Runners(track, "ab", SOON)
    await track.until_dialled("a", "b")
    for one in track.dials.values():
        one.up()
    taken = await runners.taken()
    assert {name: dial.aborted for name, dial in track.dials.items()} == {name: name != taken for name in "ab"}


async def test_only_the_first_few_are_dialled_at_once(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """A further one comes when another has failed, and its reason is kept."""
    monkeypatch.setattr(race_rule, "STAGGER", SOON)
    runners = Runners(track, "abcde", SOON)
    await track.until_dialled("a", "b", "c")
    assert len(track.dials) == RACERS
    track.dials["b"].down()
    await track.until_dialled("a", "b", "c", "d")
    assert runners.course.attempts[("b", "b:443")] == "refused"
    assert runners.course.attempts[("d", "d:443")] == "no answer yet"
    track.dials["d"].up()
    assert await runners.taken() == "d"


async def test_the_next_one_does_not_wait_for_its_turn_when_one_has_failed(track: Track) -> None:
    """However long the head start of the first was to be."""
    runners = Runners(track, "ab", LATER)
    await track.until_dialled("a")
    track.dials["a"].down()
    await track.until_dialled("a", "b")
    track.dials["b"].up()
    assert await runners.taken() == "b"


async def test_who_is_near_gets_no_rival(track: Track) -> None:
    """Ready within its head start, it is the only one that was dialled."""
    runners = Runners(track, "abc", LATER)
    await track.until_dialled("a")
    track.dials["a"].up()
    assert await runners.taken() == "a"
    assert list(track.dials) == ["a"]


async def test_nobody_is_left(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all have failed the race is over, with a reason for each."""
    monkeypatch.setattr(race_rule, "STAGGER", SOON)
    runners = Runners(track, "ab", SOON)
    await track.until_dialled("a", "b")
    for one in track.dials.values():
        one.down()
    assert await runners.taken() is None
    assert set(runners.course.attempts.values()) == {"refused"}


async def test_given_up_it_drops_everybody(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection stays that nobody knows of."""
    monkeypatch.setattr(race_rule, "STAGGER", SOON)
    runners = Runners(track, "ab", SOON)
    await track.until_dialled("a", "b")
    await runners.cancel()
    assert all(dial.outcome.cancelled() and dial.aborted for dial in track.dials.values())


async def test_with_one_racer_the_first_is_taken_unless_it_fails(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes, nobody is dialled beside it."""
    monkeypatch.setattr(race_rule, "STAGGER", SOON)
    runners = Runners(track, "abc", SOON, racers=1)
    await track.until_dialled("a")
    for _ in range(10):
        await asyncio.sleep(0)
    assert list(track.dials) == ["a"]
    track.dials["a"].down()
    await track.until_dialled("a", "b")
    track.dials["b"].up()
    assert await runners.taken() == "b"
    assert list(track.dials) == ["a", "b"]


async def test_who_has_won_is_measured_and_who_was_given_up_is_known_to_be_no_nearer(
    track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of what it was waited for, for it had two round trips to do; who failed says nothing."""
    monkeypatch.setattr(race_rule, "STAGGER", SOON)
    loop = asyncio.get_running_loop()
    began = loop.time()
    runners = Runners(track, "abc", SOON)
    await track.until_dialled("a", "b", "c")
    track.dials["c"].down()
    track.dials["b"].up()
    assert await runners.taken() == "b"
    most = (loop.time() - began) * 1000 / 2
    told = {one.node: one for one in runners.course.round_trips}
    assert told.keys() == {"a", "b"}
    assert told["b"] == RoundTrip("b", 12.0)
    assert told["a"].at_least
    assert 0 < told["a"].ms <= most
