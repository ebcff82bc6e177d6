"""Which connections get a handshake, which make room, and whose calls are too many."""

import pytest
from portway_registry.net import admission as admission_module
from portway_registry.net.admission import ANONYMOUS_BURST, HANDSHAKE_BURST, Admission, Limits, share_of_address
from portway_registry.net.connection import Connection, Stage
from portway_runtime.endpoints import Endpoint
from portway_runtime.half_open import STALLED_AFTER
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.links.carrier_link import until

LIMITS = Limits(hellos=8, strangers=8, known=12)


class NoSockets:
    """What would move bytes; notes what it is told."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.connection: Connection | None = None
        self.told: list[str] = []

    def open(self) -> None:
        self.told.append("open")

    def let_go(self) -> None:
        self.told.append("let go")

    def close(self) -> None:
        self.told.append("close")
        assert self.connection is not None
        self._admission.gone(self.connection)


class Desk:
    def __init__(self, clock: ManualClock, limits: Limits = LIMITS) -> None:
        self.admission = Admission(limits, clock)

    def arrive(self, host: str, ingress: str = "") -> Connection:
        sockets = NoSockets(self.admission)
        connection = sockets.connection = Connection(Endpoint(host, 4711), sockets, ingress)
        self.admission.arrived(connection)
        return connection

    def known(self, host: str) -> Connection:
        """A connection on which one call has ended, whose caller was identified."""
        connection = self.arrive(host)
        self.call(connection)
        return connection

    def call(self, connection: Connection, *, identified: bool = True) -> None:
        self.admission.call_began(connection)
        if identified:
            self.admission.identified(connection)
        self.admission.call_ended(connection, identified=identified)


def told(connection: Connection) -> list[str]:
    assert isinstance(connection.sockets, NoSockets)
    return connection.sockets.told


@pytest.fixture
async def desk(clock: ManualClock) -> Desk:
    return Desk(clock)


async def test_a_connection_is_opened_at_once_while_few_come(desk: Desk) -> None:
    """And stays a stranger until a caller on it is known."""
    connection = desk.arrive("192.0.2.1")
    assert (told(connection), connection.stage) == (["open"], Stage.STRANGER)
    desk.call(connection, identified=False)
    assert desk.admission.counts() == {"strangers": 1, "known": 0}
    desk.call(connection)
    assert connection.stage is Stage.KNOWN
    assert desk.admission.counts() == {"strangers": 0, "known": 1}


async def test_handshakes_are_paced_and_prefixes_take_turns(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the pace they wait; one that came last from another prefix is the second to be opened."""
    monkeypatch.setattr(admission_module, "HANDSHAKE_BURST", 2.0)
    desk = Desk(clock, Limits.of(4_096))
    many = [desk.arrive("192.0.2.1") for _ in range(6)]
    other = desk.arrive("198.51.100.1")
    assert [told(one) for one in many] == [["open"]] * 2 + [[]] * 4
    clock.now += 2.5 / admission_module.HANDSHAKES_PER_SECOND
    await until(lambda: told(other) == ["open"])
    assert [told(one) for one in many] == [["open"]] * 3 + [[]] * 3
    desk.admission.close()


async def test_a_thousand_clients_at_once_are_served_within_seconds() -> None:
    """All of one office, or of many places: as the limits are by default."""
    assert Limits.of(4_096).strangers >= 1_000
    assert (1_000 - HANDSHAKE_BURST) / admission_module.HANDSHAKES_PER_SECOND <= 2.0
    assert share_of_address(Limits.of(4_096).strangers) >= 256


async def test_strangers_make_room_by_prefix(desk: Desk, clock: ManualClock) -> None:
    """The oldest of the prefix that holds most; of one's own only when it has stalled."""
    crowd = [desk.arrive(f"192.0.2.{number}") for number in range(8)]
    newcomer = desk.arrive("198.51.100.1")
    assert told(crowd[0]) == ["open", "close"]
    assert told(newcomer) == ["open"]
    assert told(desk.arrive("192.0.2.99")) == ["close"]
    clock.now += STALLED_AFTER
    assert told(desk.arrive("192.0.2.99")) == ["open"]
    assert told(crowd[1]) == ["open", "close"]
    assert desk.admission.ended == {"made room": 2, "no room": 1}


async def test_known_connections_make_room_when_they_are_idle(desk: Desk, clock: ManualClock) -> None:
    """The one whose last call is longest ago; never one with a call in progress, however old."""
    busy = desk.known("192.0.2.0")
    desk.admission.call_began(busy)
    idle = []
    for number in range(1, 12):
        clock.now += 10
        idle.append(desk.known(f"192.0.2.{number}"))
    clock.now += 10
    desk.call(idle[0])
    desk.known("198.51.100.1")
    assert told(busy) == ["open"]
    assert [told(one)[-1] for one in idle] == ["open", "close"] + ["open"] * 9
    desk.admission.call_ended(busy, identified=True)
    assert desk.admission.counts() == {"strangers": 0, "known": 12}


async def test_when_all_are_busy_the_newcomer_goes(desk: Desk) -> None:
    """As there is no one who could make room."""
    for number in range(12):
        desk.admission.call_began(desk.known(f"192.0.2.{number}"))
    newcomer = desk.arrive("198.51.100.1")
    desk.admission.call_began(newcomer)
    desk.admission.identified(newcomer)
    assert told(newcomer) == ["open", "close"]
    assert len(desk.admission) == 12


async def test_an_address_has_few_anonymous_calls(desk: Desk, clock: ManualClock) -> None:
    """Above its budget a connection gets one more answer; who goes on is closed. Other prefixes do not notice."""
    first, second, other = desk.arrive("192.0.2.1"), desk.arrive("192.0.2.1"), desk.arrive("198.51.100.1")
    for _ in range(int(ANONYMOUS_BURST)):
        desk.call(first, identified=False)
    assert told(first) == ["open"]
    desk.call(second, identified=False)
    assert told(second) == ["open", "let go"]
    desk.call(second, identified=False)
    assert told(second) == ["open", "let go", "close"]
    desk.call(other, identified=False)
    assert told(other) == ["open"]
    desk.call(first)
    assert told(first) == ["open"], "identified calls are not counted"
    clock.now += 1
    desk.call(first, identified=False)
    assert told(first) == ["open"]


async def test_so_has_a_prefix(desk: Desk) -> None:
    """Four times those of an address, however many of its addresses call."""
    answered = 0
    for number in range(20):
        connection = desk.arrive(f"2001:db8:0:{number:x}::1")
        for _ in range(int(ANONYMOUS_BURST)):
            if told(connection) == ["open"]:
                desk.call(connection, identified=False)
                answered += 1
        desk.admission.gone(connection)
    assert answered <= 4 * ANONYMOUS_BURST + 20


async def test_what_has_ended_is_forgotten(desk: Desk) -> None:
    """At every stage, also when a call of it ends later."""
    stranger, known, busy = desk.arrive("192.0.2.1"), desk.known("192.0.2.2"), desk.known("192.0.2.3")
    desk.admission.call_began(busy)
    for connection in (stranger, known, busy, stranger):
        desk.admission.gone(connection)
    desk.admission.call_ended(busy, identified=True)
    assert len(desk.admission) == 0
    assert desk.admission.ended == {}


def test_limits_fit_into_descriptors() -> None:
    """As many as were asked for, or as the descriptors allow; never none."""
    assert Limits.within(100_000, 4_096) == Limits.of(4_096)
    few = Limits.within(100, 4_096)
    assert few.descriptors <= 100 < Limits.of(few.known + 1).descriptors
    assert min(Limits.within(0, 4_096).strangers, Limits.within(0, 4_096).known) > 0


async def test_a_node_takes_half_of_the_strangers_places(desk: Desk) -> None:
    """Whatever addresses it names: the others are for those who come by themselves, or through other nodes."""
    of_node = [desk.arrive(f"198.51.{number}.1", "fra-1") for number in range(9)]
    assert sum(told(one) == ["open"] for one in of_node) == 4
    others = [desk.arrive(f"203.0.{number}.1") for number in range(3)]
    others.append(desk.arrive("192.0.2.1", "lon-1"))
    assert all(told(one) == ["open"] for one in others)
    desk.call(next(one for one in of_node if told(one) == ["open"]))
    assert told(desk.arrive("198.51.100.1", "fra-1")) == ["open"], "a known caller gives its place back"


async def test_ingress_nodes_take_turns(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses one node names, who comes by itself waits for one of its connections at most."""
    monkeypatch.setattr(admission_module, "HANDSHAKE_BURST", 2.0)
    desk = Desk(clock, Limits.of(4_096))
    of_node = [desk.arrive(f"198.51.{number}.1", "fra-1") for number in range(20)]
    direct = [desk.arrive("203.0.113.1") for _ in range(2)]
    desk.admission.gone(direct[0])
    clock.now += 2.5 / admission_module.HANDSHAKES_PER_SECOND
    await until(lambda: told(direct[1]) == ["open"])
    assert sum(told(one) == ["open"] for one in of_node) == 3
    desk.admission.close()


async def test_anonymous_calls_of_a_node_are_counted_together(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty times those of an address: it could name another address for each call."""
    monkeypatch.setattr(admission_module, "HANDSHAKE_BURST", 2_000.0)
    desk = Desk(clock)
    answered = 0
    for number in range(1_500):
        connection = desk.arrive(f"198.{number // 250}.{number % 250}.1", "fra-1")
        desk.call(connection, identified=False)
        answered += told(connection) == ["open"]
        desk.admission.gone(connection)
    assert answered == 20 * ANONYMOUS_BURST
