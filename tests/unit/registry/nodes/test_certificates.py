"""Who gets a certificate: the order of what is written, and what a crash in between leaves behind."""

from typing import Any, Protocol

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from portway_registry.errors import (
    CertificateSuperseded,
    InvalidRequest,
    InvitationOver,
    NameTaken,
    NodeRemoved,
    NotAllowed,
)
from portway_registry.nodes.certificates import NodeCertificates, note_registration, require_current
from portway_registry.pki.cluster_authority import ClusterAuthority
from portway_registry.pki.signing import Signer
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.records import (
    IdentityRecord,
    InvitationRecord,
    NotedCertificate,
    Order,
    OrderRecord,
    decoder,
    encode,
)
from portway_registry.state.views import Views
from portway_registry.store.embedded import EmbeddedStore
from portway_runtime.identities import BACKDATE

NOW_MS = 1_800_000_000_500
LIFE = 100
REPEAT_MS = 600_000  # as docs/architecture/trust.md says
SIGNER = Signer.create()


class Replica(Protocol):
    views: Views


class Stage:
    """A store, and a time that stands still."""

    def __init__(self, store: EmbeddedStore) -> None:
        self.store = store
        self.now_ms = NOW_MS
        self.joining = self.joining_with(SIGNER)

    def joining_with(self, signer: Signer | None) -> NodeCertificates:
        def now_ms() -> int:
            return self.now_ms

        return NodeCertificates(
            self.store, ClusterAuthority(SIGNER.pem, signer), Audit(self.store, now_ms), now_ms, life=LIFE
        )

    async def invitation(self, name: str = "one", **fields: Any) -> InvitationRecord:
        given: dict[str, Any] = {"region": "fra", "secret_sha256": b"", "expires_at_ms": NOW_MS + 1000}
        record = InvitationRecord(id=name, **given | fields)
        await self.store.put(keys.invitation(name), encode(record))
        return record

    async def join(self, invitation: InvitationRecord, csr: bytes, node: str = "fra-1") -> x509.Certificate:
        got = await self.joining.join(invitation, node=node, region="fra", csr=csr)
        assert got.cluster_ca == SIGNER.pem
        return x509.load_pem_x509_certificate(got.certificate)

    async def identity(self, node: str = "fra-1") -> IdentityRecord | None:
        entry = await self.store.get(keys.identity(node))
        return None if entry is None else decoder(IdentityRecord)(entry.value)

    async def audited(self) -> list[tuple[str, str]]:
        """Action and target of each entry, the newest first."""
        return [(entry.action, entry.target) for entry in (await Audit(self.store, lambda: self.now_ms).page(10))[0]]

    async def remove(self, node: str = "fra-1") -> None:
        await self.store.put(keys.order(node), encode(OrderRecord(node, Order.REMOVE, self.now_ms)))


@pytest.fixture
def stage(memory: EmbeddedStore) -> Stage:
    return Stage(memory)


def request(key: Any = None) -> bytes:
    signing = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    algorithm = None if isinstance(signing, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signing, algorithm).public_bytes(serialization.Encoding.DER)


def issued_ms(certificate: x509.Certificate) -> int:
    return int((certificate.not_valid_before_utc + BACKDATE).timestamp()) * 1000


async def test_a_certificate_is_issued_when_the_identity_begins(stage: Stage) -> None:
    """On a whole second, an hour of which is behind it, for as long as the registry is set to."""
    certificate = await stage.join(await stage.invitation(), request())
    identity = await stage.identity()
    assert identity is not None
    assert identity.joined_at_ms == issued_ms(certificate) == (NOW_MS // 1000 + 1) * 1000
    assert not identity.anew
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc - BACKDATE
    assert life.total_seconds() == LIFE


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
async def test_other_kinds_of_keys_are_certified_too(stage: Stage, kind: str) -> None:
    """An RSA key that is long enough, and Ed25519."""
    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else rsa.generate_private_key(65537, 2048)
    assert (await stage.join(await stage.invitation(), request(key))).public_key() == key.public_key()


async def test_a_weak_key_is_not(stage: Stage) -> None:
    """And the invitation stays good."""
    invitation = await stage.invitation()
    with pytest.raises(InvalidRequest, match="2048 bits"):
        await stage.join(invitation, request(rsa.generate_private_key(65537, 1024)))
    await stage.join(invitation, request())


async def test_the_same_key_may_ask_again(stage: Stage) -> None:
    """Whoever lost the answer gets another certificate of the same identity, which the audit shows."""
    invitation, csr = await stage.invitation(), request()
    await stage.join(invitation, csr)
    identity = await stage.identity()
    stage.now_ms += REPEAT_MS - 1  # the time of the invitation is over, that of its use is not
    await stage.join(invitation, csr)
    again = await stage.identity()
    assert identity is not None
    assert again is not None
    assert again.joined_at_ms == identity.joined_at_ms
    assert again.issued_until_ms > identity.issued_until_ms
    assert await stage.audited() == [("node.join-again", "fra-1"), ("node.join", "fra-1")]
    with pytest.raises(InvitationOver, match="was used by node fra-1"):
        await stage.join(invitation, request())
    with pytest.raises(InvitationOver, match="was used by node fra-1"):
        await stage.join(invitation, csr, node="fra-2")


async def test_the_certificate_before_is_noted_while_a_node_may_have_it(stage: Stage) -> None:
    """The answer with the next one, of another CA, may be lost on its way, once or twice; when the one before has ended
    it is forgotten."""
    old, new = SIGNER, Signer.create()
    authority = ClusterAuthority(old.pem, old)
    stage.joining = NodeCertificates(
        stage.store, authority, Audit(stage.store, lambda: NOW_MS), lambda: stage.now_ms, life=LIFE
    )
    old_id = authority.issuer_id
    first = await stage.join(await stage.invitation(), request())

    async def noted() -> IdentityRecord:
        await stage.joining.renew("fra-1", issued_ms(first), request())
        identity = await stage.identity()
        assert identity is not None
        return identity

    joined = await stage.identity()
    assert joined is not None
    assert joined.former is None
    assert (await noted()).former is None
    authority.replace(old.pem + new.pem, old)
    assert (await noted()).former == NotedCertificate(old_id, joined.issued_until_ms, (old_id,))
    authority.replace(new.pem + old.pem, new)
    for _ in range(2):
        stage.now_ms += 1000
        last = await noted()
        assert last.authority == authority.issuer_id
        assert last.former == NotedCertificate(old_id, joined.issued_until_ms, (old_id,))
    stage.now_ms = joined.issued_until_ms
    assert (await noted()).former is None


async def test_it_may_not_ask_again_later(stage: Stage) -> None:
    """Some minutes after the invitation was used nobody waits for its answer any more."""
    invitation, csr = await stage.invitation(), request()
    await stage.join(invitation, csr)
    stage.now_ms += REPEAT_MS
    with pytest.raises(InvitationOver, match="was used by node fra-1"):
        await stage.join(invitation, csr)
    assert await stage.audited() == [("node.join", "fra-1")]


async def test_who_has_registered_does_not_ask_again(stage: Stage, cluster: Replica) -> None:
    """It has shown its certificate, so it has had the answer; a later node of the name begins anew."""
    invitation, csr = await stage.invitation(), request()
    await stage.join(invitation, csr)
    await note_registration(stage.store, cluster.views, "fra-1", stage.now_ms)
    identity = await stage.identity()
    assert identity is not None
    assert identity.registered_at_ms == stage.now_ms
    with pytest.raises(InvitationOver, match="has registered since"):
        await stage.join(invitation, csr)
    stage.now_ms += 1
    await note_registration(stage.store, cluster.views, "fra-1", stage.now_ms)
    assert await stage.identity() == identity
    another, other_csr = await stage.invitation("two", node="fra-1"), request()
    await stage.join(another, other_csr)
    await stage.join(another, other_csr)


async def test_a_node_with_a_certificate_of_an_operator_s_own_has_no_identity(stage: Stage, cluster: Replica) -> None:
    """Nothing is written at its registration."""
    await note_registration(stage.store, cluster.views, "fra-1", stage.now_ms)
    assert await stage.identity() is None


async def test_what_a_crash_left_half_done_is_finished(stage: Stage) -> None:
    """The invitation was marked, the identity not written: the same key asks again and is let in."""
    invitation, csr = await stage.invitation(), request()
    await stage.join(invitation, csr)
    await stage.store.delete(keys.identity("fra-1"))
    await stage.join(invitation, csr)
    assert await stage.identity() is not None


async def test_a_removed_node_does_not_come_back_with_its_old_token(stage: Stage) -> None:
    """Though it has the key that the token was used for."""
    invitation, csr = await stage.invitation(), request()
    await stage.join(invitation, csr)
    stage.now_ms += 10
    await stage.remove()
    with pytest.raises(NodeRemoved):
        await stage.join(invitation, csr)
    await stage.join(await stage.invitation("two"), request())
    assert await stage.store.get(keys.order("fra-1")) is None
    with pytest.raises(InvitationOver, match="invited anew since"):
        await stage.join(invitation, csr)


async def test_a_name_stays_its_node_s(stage: Stage) -> None:
    """An invitation that does not say it leaves it, whether that node joined or was given a certificate."""
    await stage.join(await stage.invitation(), request())
    with pytest.raises(NameTaken, match="--name fra-1"):
        await stage.join(await stage.invitation("two"), request())
    await stage.store.put(keys.node("fra-2"), b"")
    with pytest.raises(NameTaken):
        await stage.join(await stage.invitation("two"), request(), node="fra-2")


async def test_in_one_second_two_identities_are_told_apart(stage: Stage) -> None:
    """Whoever joins later has the younger certificates, whatever the clock says."""
    first = await stage.join(await stage.invitation(), request())
    second = await stage.join(await stage.invitation("two", node="fra-1"), request())
    assert issued_ms(first) < issued_ms(second)
    identity = await stage.identity()
    assert identity is not None
    assert identity.anew
    with pytest.raises(CertificateSuperseded):
        await stage.joining.renew("fra-1", issued_ms(first), request())
    assert (await stage.joining.renew("fra-1", issued_ms(second), request())).certificate


async def test_who_was_removed_or_never_joined_renews_nothing(stage: Stage) -> None:
    """It is the store that is asked, not a memory that may be behind."""
    with pytest.raises(NotAllowed, match="did not join by invitation"):
        await stage.joining.renew("fra-1", NOW_MS, request())
    certificate = await stage.join(await stage.invitation(), request())
    await stage.remove()
    with pytest.raises(NodeRemoved, match="node invite"):
        await stage.joining.renew("fra-1", issued_ms(certificate), request())


async def test_without_the_authority_s_key_nobody_joins(memory: EmbeddedStore) -> None:
    """The operator made the certificates so far, and is told how to go on."""
    stage = Stage(memory)
    stage.joining = stage.joining_with(None)
    with pytest.raises(InvalidRequest, match="--cluster-ca-key"):
        await stage.join(await stage.invitation(), request())


async def test_a_shown_certificate_is_accepted_until_its_name_is_another_s(
    memory: EmbeddedStore, cluster: Replica
) -> None:
    """One issued before the name was given anew is refused, and any of a node that was removed."""
    views = cluster.views
    require_current(views, "fra-1", 0)
    await memory.put(keys.identity("fra-1"), encode(IdentityRecord("fra-1", "fra", "one", NOW_MS)))
    await views.identities.caught_up("fra-1")
    require_current(views, "fra-1", NOW_MS)
    with pytest.raises(CertificateSuperseded):
        require_current(views, "fra-1", NOW_MS - 1)
    await memory.put(keys.order("fra-1"), encode(OrderRecord("fra-1", Order.REMOVE, NOW_MS)))
    await views.orders.caught_up("fra-1")
    with pytest.raises(NodeRemoved):
        require_current(views, "fra-1", NOW_MS)
