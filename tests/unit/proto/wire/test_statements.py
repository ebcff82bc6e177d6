"""Statements: their bytes, what they bind, and which presence places which claim."""

from dataclasses import replace
from typing import Any

import pytest
from portway_proto.wire.labels import label_of_key
from portway_proto.wire.limits import CLOCK_LEEWAY, MAX_CLAIM, MAX_CLAIMS, MAX_EPOCH_AHEAD, PRESENCE_FRESH
from portway_proto.wire.statements import (
    Claim,
    Presence,
    SigningKey,
    StatementInvalid,
    cluster_tag,
    is_believable_epoch,
    read_claim,
    read_presence,
    sign_claim,
    sign_greeting,
    sign_presence,
    signed_greeting,
)
from portway_testkit.signers import CLUSTER, NOW_MS, SessionSigner
from portway_testkit.wire_spec import vectors

VECTORS = vectors("statements")
TAG = cluster_tag(VECTORS["cluster"])
OTHER_CLUSTER = cluster_tag("another")


def key_of(vector: dict[str, Any]) -> SigningKey:
    return SigningKey(bytes.fromhex(vector["key"]))


@pytest.mark.parametrize("vector", VECTORS["keys"])
def test_key_vector(vector: dict[str, Any]) -> None:
    """A private key gives the vectors' public key and label."""
    key = SigningKey(bytes.fromhex(vector["private"]))
    assert (key.private.hex(), key.public.hex()) == (vector["private"], vector["public"])
    assert label_of_key(key.public) == vector["label"]
    assert TAG.hex() == VECTORS["cluster_tag"]


@pytest.mark.parametrize("vector", VECTORS["claims"])
def test_claim_vector(vector: dict[str, Any]) -> None:
    """Signing the fields gives the vectors' bytes, which read as the same claim and are genuine in their cluster."""
    session_key, options = bytes.fromhex(vector["session_key"]), bytes.fromhex(vector["options"])
    signed = sign_claim(
        key_of(vector), TAG, epoch=vector["epoch"], session_key=session_key, node=vector["node"], options=options
    )
    assert signed.encoded.hex() == vector["hex"]
    claim = read_claim(signed.encoded)
    assert claim == signed
    assert (claim.label, claim.id.hex()) == (vector["label"], vector["id"])
    assert claim.signed(TAG).is_genuine()
    assert not claim.signed(OTHER_CLUSTER).is_genuine()


@pytest.mark.parametrize("vector", VECTORS["presences"])
def test_presence_vector(vector: dict[str, Any]) -> None:
    """The same for presences."""
    ids = frozenset(map(bytes.fromhex, vector["ids"]))
    signed = sign_presence(key_of(vector), TAG, time_ms=vector["time_ms"], node=vector["node"], ids=ids)
    assert signed.encoded.hex() == vector["hex"]
    presence = read_presence(signed.encoded)
    assert presence == signed
    assert presence.signed(TAG).is_genuine()
    assert not presence.signed(OTHER_CLUSTER).is_genuine()


@pytest.mark.parametrize("vector", VECTORS["greetings"])
def test_greeting_vector(vector: dict[str, Any]) -> None:
    """A greeting is genuine for its node, certificate and cluster alone."""
    key, certificate = key_of(vector), bytes.fromhex(vector["certificate"])
    signature = sign_greeting(key, TAG, vector["node"], certificate)
    assert signature.hex() == vector["hex"]
    assert signed_greeting(key.public, TAG, vector["node"], certificate, signature).is_genuine()
    for cluster, node, shown in (
        (OTHER_CLUSTER, vector["node"], certificate),
        (TAG, "another", certificate),
        (TAG, vector["node"], b"another's"),
    ):
        assert not signed_greeting(key.public, cluster, node, shown, signature).is_genuine()


SESSION = SessionSigner()
CLAIM = SESSION.claim(node="fra-1", h2_enabled=True)
PRESENCE = SESSION.present("fra-1")


@pytest.mark.parametrize("statement", [CLAIM, PRESENCE], ids=["claim", "presence"])
def test_every_bit_is_signed(statement: Claim | Presence) -> None:
    """A statement with one bit changed has no form, or is not genuine."""
    read = read_claim if isinstance(statement, Claim) else read_presence
    for bit in range(len(statement.encoded) * 8):
        spoiled = bytearray(statement.encoded)
        spoiled[bit // 8] ^= 1 << bit % 8
        try:
            changed = read(bytes(spoiled))
        except StatementInvalid:
            continue
        assert not changed.signed(CLUSTER).is_genuine()


@pytest.mark.parametrize("read", [read_claim, read_presence])
@pytest.mark.parametrize("statement", [CLAIM, PRESENCE], ids=["claim", "presence"])
def test_what_is_cut_off_or_too_long_has_no_form(read: Any, statement: Claim | Presence) -> None:
    """Every shorter text, a longer one and an empty one are refused as such; so is a statement of the other kind."""
    encoded = statement.encoded
    for length in range(len(encoded)):
        with pytest.raises(StatementInvalid):
            read(encoded[:length])
    with pytest.raises(StatementInvalid):
        read(encoded + b"\0")
    with pytest.raises(StatementInvalid):
        read(bytes(MAX_CLAIM + 1))


def test_a_signature_is_of_one_kind() -> None:
    """The signature of a claim is no presence's, even where a session's key is a tunnel's."""
    key = SigningKey()
    claim = sign_claim(key, CLUSTER, epoch=1, session_key=key.public, node="a")
    presence = sign_presence(key, CLUSTER, time_ms=1, node="a", ids=frozenset())
    as_presence = replace(presence.signed(CLUSTER), message=claim.signed(CLUSTER).message)
    assert not as_presence.is_genuine()
    assert not signed_greeting(key.public, CLUSTER, "a", b"", claim.encoded[-64:]).is_genuine()


def test_a_presence_places_the_claims_that_it_lists() -> None:
    """Of its own session key and node alone."""
    session, other = SessionSigner(), SessionSigner()
    here, there = session.claim(node="fra-1"), session.claim(node="iad-1")
    foreign = other.claim(node="fra-1")
    presence = session.present("fra-1", here, there, foreign)
    assert presence.places(here)
    assert not presence.places(there)
    assert not presence.places(foreign)
    assert not session.present("fra-1", there).places(here)


def test_when_a_presence_is_fresh() -> None:
    """From the leeway before its time to the leeway after its end, both included."""
    presence = SESSION.present("fra-1", time_ms=NOW_MS)
    before, after = CLOCK_LEEWAY * 1000, (PRESENCE_FRESH + CLOCK_LEEWAY) * 1000
    assert presence.is_fresh(NOW_MS - before)
    assert presence.is_fresh(NOW_MS + after)
    assert not presence.is_fresh(NOW_MS - before - 1)
    assert not presence.is_fresh(NOW_MS + after + 1)


def test_epochs_that_are_ahead_are_nobodys() -> None:
    """An epoch is believed up to half an hour ahead."""
    assert is_believable_epoch(NOW_MS + MAX_EPOCH_AHEAD * 1000, NOW_MS)
    assert not is_believable_epoch(NOW_MS + MAX_EPOCH_AHEAD * 1000 + 1, NOW_MS)
    assert not is_believable_epoch(4_102_444_800_000, NOW_MS)  # the year 2100
    assert not is_believable_epoch(0, NOW_MS)


def test_the_greater_hash_wins_an_equal_epoch() -> None:
    """At every receiver: the rank is of the claim itself."""
    tunnel = SigningKey()
    first, second = (SESSION.claim(tunnel, node=node, epoch=5) for node in ("a", "b"))
    assert first.rank != second.rank
    assert max(first, second, key=lambda claim: claim.rank).digest == max(first.digest, second.digest)
    assert SESSION.claim(tunnel, node="a", epoch=6).rank > max(first.rank, second.rank)


@pytest.mark.parametrize("node", ["", "n" * 64])
def test_what_is_not_signed(node: str) -> None:
    """Names without their length, too many claims, times that are none."""
    key = SigningKey()
    with pytest.raises(ValueError, match="1 to 63 characters"):
        sign_claim(key, CLUSTER, epoch=1, session_key=key.public, node=node)
    with pytest.raises(ValueError, match="no time"):
        sign_claim(key, CLUSTER, epoch=2**63, session_key=key.public, node="a")
    with pytest.raises(ValueError, match="at most"):
        sign_claim(key, CLUSTER, epoch=1, session_key=key.public, node="a", options=bytes(2049))
    too_many = frozenset(number.to_bytes(8) for number in range(MAX_CLAIMS + 1))
    with pytest.raises(ValueError, match="at most"):
        sign_presence(key, CLUSTER, time_ms=1, node="a", ids=too_many)


def test_the_largest_presence_fits_in_a_control_frame() -> None:
    """A session's 1000 tunnels are listed in one."""
    ids = frozenset(number.to_bytes(8) for number in range(MAX_CLAIMS))
    presence = sign_presence(SigningKey(), CLUSTER, time_ms=1, node="n" * 63, ids=ids)
    assert len(presence.encoded) < 9_000
    assert read_presence(presence.encoded).ids == ids
