"""portway.engine.signer: what is signed with a session key, when, and what is believed."""

import os

import pytest
from portway.engine.signer import Signer
from portway_proto.wire.limits import CLOCK_LEEWAY, MAX_EPOCH_AHEAD
from portway_proto.wire.statements import SigningKey, read_claim, read_presence, signed_greeting
from portway_runtime.clocks import RegistryClock
from portway_testkit.signers import CLUSTER, CLUSTER_ID, NOW_MS, SessionSigner

YEAR_2100 = 4_102_444_800_000


class Elapsed:
    """A clock that counts sleep."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def elapsed() -> Elapsed:
    return Elapsed()


@pytest.fixture
def signer(elapsed: Elapsed) -> Signer:
    signer = Signer(RegistryClock(lambda: YEAR_2100 / 1000, elapsed))
    signer.learn(CLUSTER_ID, NOW_MS)
    return signer


def test_a_greeting_is_for_one_node_and_its_certificate(signer: Signer) -> None:
    """Neither another node nor another certificate of that name can use it."""
    signature = signer.greeting("fra-1", b"certificate")
    assert signed_greeting(signer.session_key, CLUSTER, "fra-1", b"certificate", signature).is_genuine()
    assert not signed_greeting(signer.session_key, CLUSTER, "fra-2", b"certificate", signature).is_genuine()
    assert not signed_greeting(signer.session_key, CLUSTER, "fra-1", b"another", signature).is_genuine()


def test_the_first_epoch_is_the_time_and_each_later_one_the_next(signer: Signer, elapsed: Elapsed) -> None:
    """By the registry's clock, whatever this machine's says; time asleep counts."""
    assert signer.epoch_after(0) == NOW_MS
    elapsed.seconds = 3600.0
    assert signer.epoch_after(0) == NOW_MS + 3_600_000
    assert signer.epoch_after(NOW_MS) == NOW_MS + 1


def test_an_epoch_that_nobody_believes_is_not_signed(signer: Signer) -> None:
    """A clock that was far ahead locks no holder out of its label: the time is taken anew."""
    ahead = NOW_MS + MAX_EPOCH_AHEAD * 1000
    assert signer.epoch_after(ahead - 1) == ahead
    assert signer.epoch_after(ahead) == NOW_MS
    assert signer.epoch_after(YEAR_2100) == NOW_MS


def test_presences_go_up_whatever_the_clock_does(signer: Signer, elapsed: Elapsed) -> None:
    """At one node and from node to node: the latest is the one that counts."""
    times = [signer.presence(node, []).time_ms for node in ("fra-1", "fra-1", "fra-2")]
    assert times == [NOW_MS, NOW_MS + 1, NOW_MS + 2]
    signer.learn_time(NOW_MS - 600_000)
    assert signer.presence("fra-1", []).time_ms == NOW_MS + 3
    elapsed.seconds = 601.0
    assert signer.presence("fra-1", []).time_ms == NOW_MS + 1000


def test_a_key_that_signed_far_ahead_is_spent(signer: Signer) -> None:
    """No presence of it would be fresh; its claims are this program's nevertheless."""
    claim = signer.claim(SigningKey(), NOW_MS, "fra-1", b"")
    signer.learn_time(YEAR_2100)
    signer.presence("fra-1", [])
    assert not signer.spent
    signer.learn_time(NOW_MS)
    assert signer.spent
    before = signer.session_key
    signer.change_key()
    assert signer.session_key != before
    assert not signer.spent
    assert signer.presence("fra-1", []).time_ms == NOW_MS
    assert signer.is_own(claim)
    assert signer.is_own(signer.claim(SigningKey(), NOW_MS, "fra-1", b""))


def test_a_clock_within_the_leeway_spends_no_key(signer: Signer) -> None:
    """Receivers accept what is so far ahead."""
    signer.learn_time(NOW_MS + CLOCK_LEEWAY * 1000)
    presence = signer.presence("fra-1", [])
    signer.learn_time(NOW_MS)
    assert not signer.spent
    assert presence.is_fresh(NOW_MS)


def test_statements_verify_and_fit_together(signer: Signer) -> None:
    """A presence places the claims that it lists."""
    key = SigningKey()
    claim = read_claim(signer.claim(key, NOW_MS, "fra-1", b"").encoded)
    presence = read_presence(signer.presence("fra-1", [claim]).encoded)
    assert claim.signed(CLUSTER).is_genuine()
    assert presence.signed(CLUSTER).is_genuine()
    assert presence.places(claim)


def test_only_a_genuine_claim_of_higher_rank_owns_the_label(signer: Signer) -> None:
    """One of another key, of another cluster, of a lower epoch, of a time that nobody believes, or changed shows
    nothing; of two equal epochs the greater digest is the owner."""
    key = SigningKey()
    mine = signer.claim(key, NOW_MS, "fra-1", b"")
    other = SessionSigner()
    higher = other.claim(key, node="fra-2", epoch=NOW_MS + 1)
    owner = signer.owner(higher.encoded, mine)
    assert owner is not None
    assert not signer.is_own(owner)
    for shown in (
        b"",
        b"x" * 200,
        higher.encoded[:-1],
        higher.encoded[:-1] + bytes([higher.encoded[-1] ^ 1]),
        other.claim(node="fra-2", epoch=NOW_MS + 1).encoded,
        other.claim(key, node="fra-2", epoch=NOW_MS - 1).encoded,
        other.claim(key, node="fra-2", epoch=YEAR_2100).encoded,
        SessionSigner(os.urandom(16)).claim(key, node="fra-2", epoch=NOW_MS + 1).encoded,
        mine.encoded,
    ):
        assert signer.owner(shown, mine) is None
    equal = [other.claim(key, node=f"fra-{number}", epoch=NOW_MS) for number in range(20)]
    owners = [claim for claim in equal if signer.owner(claim.encoded, mine) is not None]
    assert owners == [claim for claim in equal if claim.digest > mine.digest]
