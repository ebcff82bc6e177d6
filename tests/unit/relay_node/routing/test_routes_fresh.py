"""How long a route is used, and when somebody is asked first: each rule with the attack that succeeds without it.

Not here: which route a label has (test_routes.py).
"""

import pytest
from portway_proto.wire.limits import CLOCK_LEEWAY, PRESENCE_FRESH, YOUNG
from portway_proto.wire.statements import SigningKey, read_claim
from portway_relay.routing.senders import REGISTRY, TOKEN, Sender
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.known_routes import KEY, LABEL, KnownRoutes
from portway_testkit.signers import SessionSigner, label_of

CLIENT = Sender(TOKEN, "t1")


def test_a_route_ends_with_its_presence(known: KnownRoutes, signer: SessionSigner, clock: ManualClock) -> None:
    """A node that is silent after its client has left has the visitors for no longer than that, asked or not."""
    known.place(signer, "a")
    assert known.at() == ("a", 1)
    clock.now += PRESENCE_FRESH + CLOCK_LEEWAY - 1
    known.routes.asked(LABEL)
    assert known.placed() == ("a", 1)
    clock.now += 2
    known.routes.asked(LABEL)
    assert known.placed() is None
    assert not known.routes.is_moving(LABEL)


def test_an_overdue_renewal_is_asked_about(known: KnownRoutes, signer: SessionSigner, clock: ManualClock) -> None:
    """Without the question a node that withholds renewals has the visitors for three times as long."""
    known.place(signer, "a")
    assert known.at() == ("a", 1)
    clock.now += PRESENCE_FRESH + 1
    assert known.at() is None
    assert known.placed() == ("a", 1)
    known.routes.asked(LABEL)
    assert known.at() == ("a", 1)
    clock.now += 61
    assert known.at() is None


def test_a_renewal_is_used_without_a_question(known: KnownRoutes, signer: SessionSigner, clock: ManualClock) -> None:
    """It is checked when it comes: no visitor waits for that."""
    claim, _ = known.place(signer, "a")
    assert known.at() == ("a", 1)
    for _ in range(5):
        clock.now += 300
        known.hear("a", None, signer.present("a", claim, time_ms=known.now_ms))
        checks = len(known.checked)
        assert known.at() == ("a", 1)
        assert len(known.checked) == checks


@pytest.mark.parametrize("teller", ["a", "b"])
def test_showing_an_old_presence_again_does_not_make_it_new(
    known: KnownRoutes, signer: SessionSigner, clock: ManualClock, teller: str
) -> None:
    """A node replays what it has, itself or by another one: the overdue time does not start again."""
    claim, presence = known.place(signer, "a")
    assert known.at() == ("a", 1)
    for _ in range(3):
        clock.now += PRESENCE_FRESH / 3 + 1
        known.hear(teller, claim, presence)
    assert known.at() is None


def test_showing_it_again_does_not_help_where_clocks_differ(
    known: KnownRoutes, signer: SessionSigner, clock: ManualClock
) -> None:
    """A presence that seems to be ten minutes ahead is overdue when it was, by this node's own clock."""
    claim = signer.claim(KEY, node="a", epoch=1)
    presence = signer.present("a", time_ms=known.now_ms + 600_000)
    known.routes.hear_presence(REGISTRY, presence)
    known.hear("a", claim, None)
    assert known.at() == ("a", 1)
    clock.now += PRESENCE_FRESH + 1
    known.hear("a", claim, presence)
    assert known.at() is None
    assert known.placed() == ("a", 1)


def test_a_presence_that_comes_late_is_asked_about_at_once(known: KnownRoutes, signer: SessionSigner) -> None:
    """A node shows, ten minutes after its client has left, what it has kept to itself."""
    known.place(signer, "a", late=600)
    assert known.at() is None
    assert known.placed() == ("a", 1)


def test_a_young_node_asks_about_each_label(clock: ManualClock, signer: SessionSigner) -> None:
    """It does not know what was signed before its start: a node replays an hour's presences to it and keeps to itself
    that the client has moved on. Once asked about, the route holds."""
    known = KnownRoutes(clock, young=True)
    claim, _ = known.place(signer, "a")
    assert known.at() is None
    assert known.placed() == ("a", 1)
    known.routes.asked(LABEL)
    assert known.at() == ("a", 1)
    for _ in range(int(YOUNG / 300) + 1):
        clock.now += 300
        known.hear("a", None, signer.present("a", claim, time_ms=known.now_ms))
    other = SigningKey(b"\x0a" * 32)
    known.place(SessionSigner(), "b", key=other)
    assert known.at(label_of(other)) == ("b", 1), "nothing that was signed before its start counts any more"


@pytest.mark.parametrize("heard_before", [False, True], ids=["first", "later"])
def test_where_the_session_that_had_it_says_its_client_went_is_not_asked_about(
    clock: ManualClock, signer: SessionSigner, heard_before: bool
) -> None:
    """From the moment that its statements are checked, also at a young node and where another node has shown them."""
    known = KnownRoutes(clock, young=True)
    claim = signer.claim(KEY, node="a", epoch=2)
    presence = signer.present("a", time_ms=known.now_ms)
    if heard_before:
        known.hear("a", claim, presence)
        assert known.at() is None
    known.routes.hear_moved(CLIENT, claim, presence)
    assert known.at() == ("a", 2)
    clock.now += PRESENCE_FRESH + 1
    assert known.at() is None, "an answer of before does not hold for a renewal that is overdue"


def test_a_forged_claim_is_no_answer_whoever_had_the_label(clock: ManualClock, signer: SessionSigner) -> None:
    """The genuine one, which another node has shown, is asked about."""
    known = KnownRoutes(clock, young=True)
    claim, _ = known.place(signer, "a", 2)
    forged = read_claim(KEY.public + SessionSigner().claim(node="a", epoch=3).encoded[len(KEY.public) :])
    known.routes.hear_moved(CLIENT, forged, signer.present("a", claim, forged, time_ms=known.now_ms + 1))
    assert known.at() is None
    assert known.placed() == ("a", 2)


def test_no_longer_young_is_older_than_any_presence_that_counts() -> None:
    """A presence that was signed before the start, by the fastest clock, has ended by the slowest one."""
    assert YOUNG > PRESENCE_FRESH + 2 * CLOCK_LEEWAY
