"""Where a label is, by what its client has signed: every rule with the attack that succeeds without it.

Not here: how long a route is used, and when somebody is asked first (test_routes_fresh.py).
"""

import pytest
from portway_proto.wire.limits import CLOCK_LEEWAY, MAX_EPOCH_AHEAD, PRESENCE_FRESH
from portway_proto.wire.statements import SigningKey
from portway_relay.routing.senders import TOKEN, Sender
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.known_routes import KEY, LABEL, KnownRoutes, node
from portway_testkit.signers import SessionSigner, label_of

CLIENT = Sender(TOKEN, "t1")


def test_a_claim_and_a_presence_place_a_label(known: KnownRoutes, signer: SessionSigner) -> None:
    """Whoever shows them; each alone does nothing."""
    claim, presence = signer.claim(KEY, node="a", epoch=1), None
    known.hear("a", claim, None)
    assert known.at() is None
    presence = signer.present("a", time_ms=known.now_ms)
    known.hear("b", None, presence)
    assert known.at() == ("a", 1)


def test_signatures_are_checked_at_first_use(known: KnownRoutes, signer: SessionSigner) -> None:
    """Statements that no visitor asks for cost no check; those in use are checked once, however often shown."""
    claim, presence = known.place(signer, "a")
    assert known.checked == []
    known.at()
    for teller in ("a", "b"):
        known.hear(teller, claim, presence)
    known.at()
    assert len(known.checked) == 2


@pytest.mark.parametrize("forged", ["claim", "presence"])
def test_what_is_forged_places_nothing(known: KnownRoutes, signer: SessionSigner, forged: str) -> None:
    """A node signs with a key of its own what it would like to be so."""
    mine = SessionSigner()
    known.place(signer, "a")
    if forged == "claim":
        claim = mine.claim(SigningKey(), node="b", epoch=9)
        object.__setattr__(claim, "label", LABEL)
        object.__setattr__(claim, "key", KEY.public)
    else:
        claim = signer.claim(KEY, node="b", epoch=9)
    presence = mine.present("b", claim, time_ms=known.now_ms)
    if forged == "presence":
        object.__setattr__(presence, "session_key", signer.key.public)
    known.hear("b", claim, presence)
    if forged == "claim":
        assert known.at() == ("a", 1)
    else:
        assert known.at() is None, "the client has signed a claim of higher rank, and no presence for it"


def test_the_higher_rank_has_the_label(known: KnownRoutes, signer: SessionSigner) -> None:
    """The client that moved is not led back, by whatever was signed before."""
    before = known.place(signer, "a", 1, late=1)
    known.place(signer, "b", 2)
    assert known.at() == ("b", 2)
    known.hear("a", *before)
    assert known.at() == ("b", 2)


def test_a_label_does_not_stay_where_a_later_presence_does_not_list_it(
    known: KnownRoutes, signer: SessionSigner
) -> None:
    """A node keeps one tunnel of a session whose other one was closed: the next presence for the one ends the other."""
    kept = SigningKey(b"\x09" * 32)
    first = signer.claim(KEY, node="a", epoch=1)
    second = signer.claim(kept, node="a", epoch=1)
    known.hear("a", first, signer.present("a", time_ms=known.now_ms - 2))
    known.hear("a", second, None)
    assert (known.at(), known.at(label_of(kept))) == (("a", 1), ("a", 1))
    known.hear("a", None, signer.present("a", second, time_ms=known.now_ms - 1))
    assert (known.at(), known.at(label_of(kept))) == (None, ("a", 1))
    assert known.placed() is None
    assert not known.routes.is_moving(LABEL), "its client is there, and has closed it"


def test_an_older_presence_is_outdated_whoever_shows_it(known: KnownRoutes, signer: SessionSigner) -> None:
    """A node withholds the later one: it was heard from somebody else."""
    claim, older = known.place(signer, "a", late=5)
    assert known.at() == ("a", 1)
    known.hear("b", None, signer.present("b", time_ms=known.now_ms))
    known.hear("a", claim, older)
    assert known.at() is None
    assert known.routes.is_moving(LABEL), "its client is at another node, and may bind it there in a moment"


def test_a_node_cannot_present_a_claim_of_another_session(known: KnownRoutes, signer: SessionSigner) -> None:
    """It lists the claim in a presence with a session key of its own, or hands it to a client of its own."""
    claim = signer.claim(KEY, node="a", epoch=1)
    known.hear("a", claim, SessionSigner().present("a", claim, time_ms=known.now_ms))
    assert known.at() is None


def test_a_presence_places_at_its_own_node_only(known: KnownRoutes, signer: SessionSigner) -> None:
    """A claim for node a is not listed for node b."""
    claim = signer.claim(KEY, node="a", epoch=1)
    known.hear("b", claim, signer.present("b", claim, time_ms=known.now_ms))
    assert known.at() is None


# Rule 4 and 5: time.


@pytest.mark.parametrize("ahead", [-CLOCK_LEEWAY, CLOCK_LEEWAY])
def test_clocks_within_the_leeway_change_nothing(
    known: KnownRoutes, signer: SessionSigner, clock: ManualClock, ahead: int
) -> None:
    """The client's time differs from this node's, either way: the route is there, and holds while it is renewed."""
    claim = signer.claim(KEY, node="a", epoch=1)
    for _ in range(3):
        known.hear("a", claim, signer.present("a", claim, time_ms=known.now_ms + ahead * 1000))
        assert known.placed() == ("a", 1)
        known.routes.asked(LABEL)
        clock.now += 1


@pytest.mark.parametrize("seconds", [-PRESENCE_FRESH - CLOCK_LEEWAY - 1, CLOCK_LEEWAY + 1])
def test_what_is_not_of_now_is_not_kept(known: KnownRoutes, signer: SessionSigner, seconds: int) -> None:
    """Neither a presence of another time, nor is a later one outdated by it."""
    claim = signer.claim(KEY, node="a", epoch=1)
    known.hear("a", claim, signer.present("a", claim, time_ms=known.now_ms + seconds * 1000))
    assert known.placed() is None
    known.hear("a", claim, signer.present("a", claim, time_ms=known.now_ms))
    assert known.at() == ("a", 1)


def test_an_epoch_in_the_year_2100_locks_nobody_out(known: KnownRoutes, signer: SessionSigner) -> None:
    """A client with a wrong clock, or a node that has its key for a moment, cannot make the label unusable."""
    claim = signer.claim(KEY, node="b", epoch=known.now_ms + MAX_EPOCH_AHEAD * 1000 + 1)
    known.hear("b", claim, signer.present("b", claim, time_ms=known.now_ms - 1))
    known.place(signer, "a", known.now_ms)
    assert known.at() == ("a", known.now_ms)


# Rule 7: budgets.


def test_what_is_above_a_senders_budget_counts_as_not_shown(known: KnownRoutes, signer: SessionSigner) -> None:
    """A node that floods others with statements is not heard for a while; what is known from others stays."""
    known.place(signer, "a", late=1)
    assert known.at() == ("a", 1)
    known.broke.add("b")
    known.place(signer, "b", 2)
    assert known.at() == ("a", 1)
    known.broke.clear()
    assert known.at() == ("b", 2)


# Rule 8: a share of memory for each sender.


def test_a_node_pushes_out_only_what_it_said_itself(known: KnownRoutes, signer: SessionSigner) -> None:
    """101,000 invented labels flushed the memory of all nodes, and the highest epoch of the victim with it."""
    old = known.place(signer, "a", 1, late=3)
    known.place(signer, "b", 2, late=1)
    assert known.at() == ("b", 2)
    claim = SessionSigner().claim(node="a", epoch=1)
    for number in range(20_001):
        object.__setattr__(claim, "label", f"label {number}")
        object.__setattr__(claim, "encoded", number.to_bytes(4))
        known.routes.hear_claim(node("a"), claim)
    known.hear("a", *old)
    assert known.at() == ("b", 2)


def test_a_node_pushes_out_its_own_routes(known: KnownRoutes, signer: SessionSigner) -> None:
    """The memory is bounded: what it said first is forgotten, and asked for when a visitor comes."""
    known.place(signer, "a")
    assert known.at() == ("a", 1)
    claim = SessionSigner().claim(node="a", epoch=1)
    for number in range(20_000):
        object.__setattr__(claim, "label", f"label {number}")
        object.__setattr__(claim, "encoded", number.to_bytes(4))
        known.routes.hear_claim(node("a"), claim)
    assert known.at() is None
    assert len(known.routes) == 0


# What is bound here.


def test_a_binding_here_is_contested_by_a_claim_that_places_the_label_elsewhere(
    known: KnownRoutes, signer: SessionSigner
) -> None:
    """Verified at once; a claim alone, one of lower rank and a forged one change nothing."""
    own = signer.claim(KEY, node="here", epoch=2)
    known.held[LABEL] = own
    known.routes.bound_here(CLIENT, own)
    other = SessionSigner()
    known.hear("a", other.claim(KEY, node="a", epoch=1), other.present("a", time_ms=known.now_ms - 1))
    assert known.superseded == []
    higher = other.claim(KEY, node="a", epoch=3)
    known.hear("a", higher, None)
    assert known.superseded == []
    known.hear("a", None, other.present("a", higher, time_ms=known.now_ms))
    known.settle()
    assert set(known.superseded) == {higher}


def test_what_was_bound_here_is_remembered_beyond_its_end(known: KnownRoutes, signer: SessionSigner) -> None:
    """The node that had the label before shows its old claim when the tunnel here has ended."""
    before = SessionSigner()
    known.routes.bound_here(CLIENT, signer.claim(KEY, node="here", epoch=2))
    known.routes.released(CLIENT, LABEL, 2, closed=True)
    known.place(before, "a", 1)
    assert known.placed() is None


# Released labels.


@pytest.mark.parametrize("closed", [False, True])
def test_a_node_is_believed_that_it_does_not_hold_a_label(
    known: KnownRoutes, signer: SessionSigner, closed: bool
) -> None:
    """Its client is waited for unless it has closed the tunnel; what others say of it before the node itself does not
    count."""
    claim, presence = known.place(signer, "a")
    assert known.at() == ("a", 1)
    known.routes.released(node("a"), LABEL, 1, closed=closed)
    assert known.placed() is None
    assert known.routes.is_moving(LABEL) is not closed
    known.hear("b", claim, presence)
    assert known.placed() is None
    known.hear("a", claim, presence)
    assert known.at() == ("a", 1)


def test_a_node_speaks_of_itself_alone(known: KnownRoutes, signer: SessionSigner) -> None:
    """What b does not hold, or a held before, says nothing of where the label is."""
    known.place(signer, "a", 2)
    known.routes.released(node("b"), LABEL, 9, closed=True)
    known.routes.released(node("a"), LABEL, 1, closed=True)
    assert known.at() == ("a", 2)


def test_a_released_label_is_waited_for_for_a_while(known: KnownRoutes, clock: ManualClock) -> None:
    """As long as sessions are kept; a label that is heard of again is no longer unknown."""
    known.routes.released(CLIENT, LABEL, 1, closed=False)
    assert known.routes.is_moving(LABEL)
    clock.now += 61
    assert not known.routes.is_moving(LABEL)
    known.routes.mark_unknown(LABEL)
    assert known.routes.is_unknown(LABEL)
    known.place(SessionSigner(), "a", 2)
    assert not known.routes.is_unknown(LABEL)


def test_a_release_pushes_out_only_releases_of_its_sender(known: KnownRoutes) -> None:
    """A tenant opens and closes tunnels, and no other one's closed names are waited for again."""
    known.routes.released(Sender(TOKEN, "t2"), LABEL, 1, closed=True)
    assert known.routes.closed_epoch(LABEL) == 1
    for number in range(10_001):
        known.routes.released(CLIENT, f"label {number}", 1, closed=False)
    assert known.routes.closed_epoch(LABEL) == 1
    assert not known.routes.is_moving("label 0")
    assert known.routes.is_moving("label 1")


def test_a_node_that_is_not_known_gets_no_visitors(known: KnownRoutes, signer: SessionSigner) -> None:
    """Until a registry has named it; then what was heard counts."""
    pool = known.pools.pop("a")
    known.place(signer, "a")
    assert known.at() is None
    known.pools["a"] = pool
    assert known.at() == ("a", 1)


def test_a_later_claim_for_a_node_that_is_not_known_ends_the_route(known: KnownRoutes, signer: SessionSigner) -> None:
    """The client has left, wherever it is: its former home gets no more visitors."""
    known.place(signer, "a", 1, late=1)
    assert known.at() == ("a", 1)
    known.place(signer, "elsewhere", 2)
    assert (known.at(), known.placed()) == (None, None)


def test_a_claim_whose_options_cannot_be_read_is_not_kept(known: KnownRoutes, signer: SessionSigner) -> None:
    """Its key's holder has signed it, and no node fails over it."""
    known.place(signer, "a", 1, late=1)
    claim = signer.claim(KEY, node="b", epoch=2, unreadable=True)
    known.hear("b", claim, None)
    assert known.at() == ("a", 1)
