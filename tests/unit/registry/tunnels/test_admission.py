"""Whose a label is, and what places a tunnel."""

from typing import Any

import pytest
from portway_proto.v1.types_pb2 import TunnelInfo, TunnelOptions
from portway_proto.wire.statements import Claim, SigningKey
from portway_registry.state.records import PresenceRecord
from portway_registry.state.views import Item
from portway_registry.store.contract import LeaseId, Revision
from portway_registry.tunnels.admission import Verdict, decide, may_withdraw, newest, objection
from portway_testkit.signers import NOW_MS, SessionSigner
from portway_testkit.signers import tunnel_info as announced

KEY = SigningKey(b"\x01" * 32)
SIGNER = SessionSigner(key=SigningKey(b"\x02" * 32))
LEASE, OTHER_LEASE = LeaseId(1), LeaseId(2)


def offered(epoch: int, node: str = "fra-1", **more: Any) -> TunnelInfo:
    """The same each time: signatures of Ed25519 are not random."""
    tunnel = announced(SIGNER.claim(KEY, node=node, epoch=epoch))
    tunnel.MergeFrom(TunnelInfo(**more))
    return tunnel


def held(tunnel: TunnelInfo, lease: LeaseId = LEASE) -> Item[TunnelInfo]:
    return Item(tunnel.label, tunnel, Revision(1), Revision(1), lease)


# Two claims of one epoch: which of them has the greater hash is decided by chance, and so is the same in every run.
LESSER, GREATER = sorted(
    (SIGNER.claim(KEY, node=node, epoch=2) for node in ("fra-1", "lon-1")), key=lambda claim: claim.rank
)


@pytest.mark.parametrize(
    ("offer", "holds", "verdict"),
    [
        (offered(1), None, Verdict.TAKE),
        (offered(2), held(offered(1, "lon-1")), Verdict.TAKE),
        (offered(2), held(offered(1)), Verdict.TAKE),
        (announced(LESSER), held(announced(GREATER)), Verdict.SUPERSEDED),
        (announced(GREATER), held(announced(LESSER)), Verdict.TAKE),
        (offered(1), held(offered(2, "lon-1")), Verdict.SUPERSEDED),
        (offered(1), held(offered(2)), Verdict.SUPERSEDED),
        (offered(2), held(offered(2)), Verdict.KNOWN),
        (offered(2), held(offered(2), OTHER_LEASE), Verdict.TAKE),
        (offered(2, unencrypted_port=7), held(offered(2)), Verdict.TAKE),
    ],
    ids=[
        "free",
        "higher",
        "own, higher",
        "equal, lesser hash",
        "equal, greater hash",
        "lower",
        "own, lower",
        "same",
        "other lease",
        "changed",
    ],
)
def test_the_highest_rank_owns_the_label(offer: TunnelInfo, holds: Item[TunnelInfo] | None, verdict: Verdict) -> None:
    """A higher one takes it, a lower one never does; one's own may be written again."""
    assert decide(offer, holds, LEASE) is verdict


def test_another_key_with_the_same_label_is_refused() -> None:
    """While a tunnel holds the label: whoever found a key to it, with however high an epoch, does not get it."""
    other = offered(2**62)
    other.claim = SIGNER.claim(SigningKey(), node="lon-1", epoch=2**62).encoded
    assert decide(other, held(offered(1)), LEASE) is Verdict.SUPERSEDED


def objects(
    claim: Claim, *, sent: dict[str, Any] | None = None, lists: tuple[Claim, ...] | None = None, at: str = "fra-1"
) -> str | None:
    """The objection to a tunnel with this claim, announced by fra-1; of a session that presents it there unless it
    lists others or is elsewhere."""
    tunnel = announced(claim)
    for name, value in (sent or {}).items():
        if name == "options":
            tunnel.options.CopyFrom(value)
        else:
            setattr(tunnel, name, value)
    presence = SIGNER.present(at, *(lists or (claim,)))
    return objection(tunnel, claim, presence, node="fra-1", now_ms=NOW_MS)


def test_a_claim_that_its_session_presents_is_admitted() -> None:
    """Nothing but the signatures is open then; with a raw port if the claim asks for one."""
    assert objects(SIGNER.claim(node="fra-1")) is None
    assert objects(SIGNER.claim(node="fra-1", unencrypted=True), sent={"unencrypted_port": 20_000}) is None


HALF_AN_HOUR = 30 * 60_000
OTHER_SESSION = SessionSigner()


@pytest.mark.parametrize(
    ("problem", "claim", "more"),
    [
        ("another label", SIGNER.claim(node="fra-1"), {"sent": {"label": "a" * 16}}),
        ("another label or epoch", SIGNER.claim(node="fra-1"), {"sent": {"epoch": NOW_MS + 1}}),
        ("another node", SIGNER.claim(node="lon-1"), {"at": "lon-1"}),
        ("too far ahead", SIGNER.claim(node="fra-1", epoch=NOW_MS + HALF_AN_HOUR + 1), {}),
        ("too far ahead", SIGNER.claim(node="fra-1", epoch=0), {}),
        ("options", SIGNER.claim(node="fra-1"), {"sent": {"options": TunnelOptions(h2_enabled=True)}}),
        ("options", SIGNER.claim(node="fra-1", unencrypted=True), {"sent": {"options": TunnelOptions()}}),
        ("raw port", SIGNER.claim(node="fra-1"), {"sent": {"unencrypted_port": 20_000}}),
        ("does not place", SIGNER.claim(node="fra-1"), {"lists": (SIGNER.claim(node="fra-1"),)}),
        ("does not place", SIGNER.claim(node="fra-1"), {"at": "lon-1"}),
        ("does not place", OTHER_SESSION.claim(node="fra-1"), {}),
    ],
)
def test_any_other_is_not(problem: str, claim: Claim, more: dict[str, Any]) -> None:
    """Of another label, node or time, with other options, and of no or another session's presence."""
    assert problem in (objects(claim, **more) or "")


def test_without_a_session_nothing_is_placed() -> None:
    """A claim alone, that a node may have seen anywhere, is not enough."""
    claim = SIGNER.claim(node="fra-1")
    assert objection(announced(claim), claim, None, node="fra-1", now_ms=NOW_MS) is not None


def test_the_later_presence_counts() -> None:
    """Of two with one time the one in the store."""
    claim = SIGNER.claim(node="fra-1")
    early, late = (SIGNER.present("fra-1", claim, time_ms=time_ms) for time_ms in (NOW_MS, NOW_MS + 1))
    same_time = SIGNER.present("lon-1", claim, time_ms=NOW_MS)

    def record(presence: Any) -> PresenceRecord:
        return PresenceRecord(presence.node, presence.time_ms, presence.encoded)

    assert newest(early, None) is early
    assert newest(late, record(early)) is late
    assert newest(early, record(late)) == late
    assert newest(early, record(early)) is early
    assert newest(early, record(same_time)) == same_time


def test_a_withdrawal_is_of_the_binding_that_stands() -> None:
    """Node and epoch must both be those that stand."""
    standing = held(offered(3))
    assert may_withdraw("fra-1", 3, standing)
    assert not may_withdraw("fra-1", 2, standing)
    assert not may_withdraw("lon-1", 3, standing)
    assert not may_withdraw("fra-1", 3, None)
