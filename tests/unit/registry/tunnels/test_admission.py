"""Whose a label is."""

import pytest
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.labels import Chain
from portway_registry.state.views import Item, LastHolder
from portway_registry.store.contract import LeaseId, Revision
from portway_registry.tunnels.admission import Verdict, decide, is_genuine, may_withdraw
from portway_testkit.clusters.registry import tunnel_info

CHAIN = Chain()
LEASE, OTHER_LEASE = LeaseId(1), LeaseId(2)


def offered(epoch: int, node: str = "fra-1", **more: object) -> TunnelInfo:
    return tunnel_info(CHAIN, epoch, node=node, **more)


def held(tunnel: TunnelInfo, lease: LeaseId = LEASE) -> Item[TunnelInfo]:
    return Item(tunnel.label, tunnel, Revision(1), Revision(1), lease)


@pytest.mark.parametrize(
    ("offer", "holds", "verdict"),
    [
        (offered(1), None, Verdict.TAKE),
        (offered(2), held(offered(1, "lon-1")), Verdict.TAKE),
        (offered(2), held(offered(1)), Verdict.TAKE),
        (offered(2), held(offered(2, "lon-1")), Verdict.SUPERSEDED),
        (offered(1), held(offered(2, "lon-1")), Verdict.SUPERSEDED),
        (offered(1), held(offered(2)), Verdict.SUPERSEDED),
        (offered(2), held(offered(2)), Verdict.KNOWN),
        (offered(2), held(offered(2), OTHER_LEASE), Verdict.TAKE),
        (offered(2, unencrypted_port=7), held(offered(2)), Verdict.TAKE),
    ],
    ids=["free", "higher", "own, higher", "equal elsewhere", "lower", "own, lower", "same", "other lease", "changed"],
)
def test_the_highest_epoch_owns_the_label(offer: TunnelInfo, holds: Item[TunnelInfo] | None, verdict: Verdict) -> None:
    """A higher epoch takes it, an equal one elsewhere or a lower one never does; one's own may be written again."""
    assert decide(offer, holds, LEASE) is verdict


@pytest.mark.parametrize("holds", [None, held(offered(1, "lon-1"))], ids=["free", "held lower"])
@pytest.mark.parametrize(
    ("offer", "verdict"),
    [
        (offered(3, "lon-1"), Verdict.TAKE),
        (offered(2, "fra-1"), Verdict.TAKE),
        (offered(2, "lon-1"), Verdict.SUPERSEDED),
        (offered(1, "fra-1"), Verdict.SUPERSEDED),
    ],
    ids=["higher", "its own again", "equal elsewhere", "lower"],
)
def test_an_epoch_stays_its_last_holders(offer: TunnelInfo, verdict: Verdict, holds: Item[TunnelInfo] | None) -> None:
    """While its client is away, or gone for good: who saw its proof does not get the label."""
    assert decide(offer, holds, LEASE, LastHolder("fra-1", 2)) is verdict


@pytest.mark.parametrize("epoch", [1, 2, 4096])
def test_a_proof_that_fits_is_genuine(epoch: int) -> None:
    """Whoever knows the chain can show any epoch of it."""
    assert is_genuine(offered(epoch), None)


@pytest.mark.parametrize(
    "forged",
    [
        offered(2, proof=CHAIN.proof(1)),
        offered(1, proof=CHAIN.proof(2)),
        offered(1, label="a" * 16),
        offered(1, label="no label"),
        offered(1, label=""),
        offered(1, proof=b""),
        TunnelInfo(label=CHAIN.label, epoch=0, proof=CHAIN.proof(1)),
        TunnelInfo(label=CHAIN.label, epoch=4097, proof=CHAIN.proof(1)),
    ],
)
def test_any_other_is_not(forged: TunnelInfo) -> None:
    """Another epoch, another label, no label, no proof, an epoch that there is not."""
    assert not is_genuine(forged, None)


def test_what_was_verified_is_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof that the store holds for this epoch was checked when it was written; another one is checked now."""
    asked = []
    monkeypatch.setattr("portway_registry.tunnels.admission.verify_proof", lambda *proof: asked.append(proof))
    assert is_genuine(offered(3), held(offered(3)))
    assert asked == []
    assert not is_genuine(offered(4), held(offered(3)))
    assert len(asked) == 1


def test_a_withdrawal_is_of_the_binding_that_stands() -> None:
    """Node and epoch must both be those that stand."""
    standing = held(offered(3))
    assert may_withdraw("fra-1", 3, standing)
    assert not may_withdraw("fra-1", 2, standing)
    assert not may_withdraw("lon-1", 3, standing)
    assert not may_withdraw("fra-1", 3, None)
