"""Node certificates: the first issued for an invitation, each further one for the certificate before it, and whether
one that is shown is still accepted.

Here: which node gets a certificate, under which name and region. Not here: the certificate itself, and how a caller's
certificate is read.
"""

import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from portway_proto.v1.types_pb2 import NodeCertificate
from portway_runtime.certificates import authority_id

from portway_registry.access.invitations import may_repeat, why_over
from portway_registry.errors import (
    CertificateSuperseded,
    InvalidRequest,
    InvitationOver,
    InvitationUnknown,
    NameTaken,
    NodeRemoved,
    NotAllowed,
    PkiError,
)
from portway_registry.names import check_node
from portway_registry.nodes.operator_orders import is_removed
from portway_registry.pki.cluster_authority import ClusterAuthority
from portway_registry.pki.signing import PublicKey, Signer, requested_key
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
from portway_registry.store.contract import Entry, Store
from portway_registry.store.update import Decision, revision_of, update

logger = logging.getLogger(__name__)

_LONGEST_CSR: Final = 16 << 10  # bytes; one for the largest RSA key in use takes 5 KB

_read_invitation: Final = decoder(InvitationRecord)
_read_identity: Final = decoder(IdentityRecord)
_read_order: Final = decoder(OrderRecord)


def require_current(views: Views, node: str, issued_ms: int) -> None:
    """Whether a node's certificate, issued at `issued_ms`, is still accepted; decided from memory, at each call.

    Raises NodeRemoved, and CertificateSuperseded when another node has joined under the name since.
    """
    if is_removed(views.orders, node):
        raise NodeRemoved(node)
    identity = views.identities.get(node)
    if identity is not None and issued_ms < identity.joined_at_ms:
        raise CertificateSuperseded(node)


async def demand_current(store: Store, node: str, issued_ms: int) -> None:
    """The same by the store, of which views may be behind: for what gives a node a place among the others.

    Raises StoreUnavailable besides.
    """
    order, identity = await store.get(keys.order(node)), await store.get(keys.identity(node))
    if order is not None and _read_order(order.value).order is Order.REMOVE:
        raise NodeRemoved(node)
    if identity is not None and issued_ms < _read_identity(identity.value).joined_at_ms:
        raise CertificateSuperseded(node)


async def note_registration(store: Store, views: Views, node: str, now_ms: int) -> None:
    """Remember that the node has shown its certificate: its invitation is of no use from then on, whatever its age.

    Nothing is written at its later registrations. Raises StoreUnavailable.
    """
    known = views.identities.get(node)
    if known is not None and known.registered_at_ms:
        return

    async def decide(entry: Entry | None) -> Decision[None]:
        identity = None if entry is None else views.identities.decode(entry)
        if identity is None or identity.registered_at_ms:
            return Decision(None)
        return Decision(None, encode(msgspec.structs.replace(identity, registered_at_ms=now_ms)))

    await update(store, keys.identity(node), decide, "the node's identity changed at each try to write it")


class NodeCertificates:
    """Issues nodes' certificates. All decisions are made on what the store has now, not on views that may be behind."""

    def __init__(
        self, store: Store, authority: ClusterAuthority, audit: Audit, now_ms: Callable[[], int], *, life: int
    ) -> None:
        """`life` is the number of seconds that a certificate is valid."""
        self._store = store
        self._authority = authority
        self._audit = audit
        self._now_ms = now_ms
        self._life = timedelta(seconds=life)

    async def join(self, invitation: InvitationRecord, *, node: str, region: str, csr: bytes) -> NodeCertificate:
        """The node's first certificate, for the key in `csr` (PKCS #10, DER).

        An invitation is good for one key. A node that lost the answer may ask again with the same key, within minutes
        and until it has registered; that is audited too.
        Raises InvalidRequest, NotAllowed and its subclasses, NotAuthenticated's subclasses, StoreUnavailable.
        """
        signer, key = self._signer(), _requested_key(csr)
        _require_match(invitation, node, region)
        digest = _digest(key)
        used, again = await self._use(invitation.id, node, digest)
        joined = await self._take_name(used, again=again)
        what = "node.join-again" if again else "node.join"
        logger.info("node joined", extra={"node": node, "region": region, "invitation": used.id, "again": again})
        await self._audit.add(used.id, what, node)
        return await self._issue(signer, key, joined)

    async def renew(self, node: str, issued_ms: int, csr: bytes) -> NodeCertificate:
        """The next certificate of a node that showed one issued at `issued_ms`.

        Raises InvalidRequest, NodeRemoved, CertificateSuperseded, NotAllowed, StoreUnavailable.
        """
        signer, key = self._signer(), _requested_key(csr)
        if await self._removal(node) is not None:
            raise NodeRemoved(node)
        entry = await self._store.get(keys.identity(node))
        if entry is None:
            raise NotAllowed(f"node {node} did not join by invitation: renew its certificate where it was made")
        identity = _read_identity(entry.value)
        if issued_ms < identity.joined_at_ms:
            raise CertificateSuperseded(node)
        return await self._issue(signer, key, identity)

    async def _use(self, invitation_id: str, node: str, digest: bytes) -> tuple[InvitationRecord, bool]:
        """Mark the invitation used, atomically: of two nodes that come at once one is refused. True: by this key,
        earlier."""

        async def decide(entry: Entry | None) -> Decision[tuple[InvitationRecord, bool]]:
            if entry is None:
                raise InvitationUnknown
            record = _read_invitation(entry.value)
            now = self._now_ms()
            if may_repeat(record, now) and (record.used_by, record.key_sha256) == (node, digest):
                return Decision((record, True))
            over = why_over(record, now)
            if over:
                raise InvitationOver(over)
            await self._require_free_name(record, node)
            used = msgspec.structs.replace(record, used_at_ms=now, used_by=node, key_sha256=digest)
            return Decision((used, False), encode(used))

        return await update(
            self._store, keys.invitation(invitation_id), decide, "the invitation changed at each try to use it"
        )

    async def _require_free_name(self, invitation: InvitationRecord, node: str) -> None:
        """A name belongs to the node that joined under it until that node is removed, or an invitation names it.

        Raises NameTaken.
        """
        if invitation.node == node or await self._removal(node) is not None:
            return
        if await self._store.get(keys.identity(node)) or await self._store.get(keys.node(node)):
            raise NameTaken(node, invitation.region)

    async def _take_name(self, used: InvitationRecord, *, again: bool) -> IdentityRecord:
        """Give the name to the node that used the invitation; certificates issued for it before are void."""
        node = used.used_by
        entry, removal = await self._store.get(keys.identity(node)), await self._removal(node)
        if again and removal is not None and _read_order(removal.value).at_ms >= used.used_at_ms:
            raise NodeRemoved(node)
        before = None if entry is None else _read_identity(entry.value)
        if before is not None and before.invitation == used.id:
            if before.registered_at_ms:
                raise InvitationOver(f"was used by node {node}, which has registered since")
            return before
        if again and before is not None and before.joined_at_ms > used.used_at_ms:
            raise InvitationOver(f"was used by node {node}, which has been invited anew since")
        if removal is not None:
            await self._store.delete(removal.key, expected=removal.modified)
        anew = before is not None or removal is not None or await self._store.get(keys.node(node)) is not None
        # Certificates have whole seconds, and those issued for the name until now must be older.
        joined_at_ms = (self._now_ms() // 1000 + 1) * 1000
        if before is not None:
            joined_at_ms = max(joined_at_ms, before.joined_at_ms + 1000)
        identity = IdentityRecord(node, used.region, used.id, joined_at_ms, anew=anew)
        if not await self._store.put(keys.identity(node), encode(identity), expected=revision_of(entry)):
            raise NameTaken(node, used.region)
        return identity

    async def _removal(self, node: str) -> Entry | None:
        """The order that removed the node, if there is one."""
        entry = await self._store.get(keys.order(node))
        return entry if entry is not None and _read_order(entry.value).order is Order.REMOVE else None

    def _signer(self) -> Signer:
        if self._authority.signer is None:
            raise InvalidRequest(
                "this registry has the cluster's CA without its key, and cannot issue certificates: start it with "
                "--cluster-ca-key, or make the node's with `portway-admin pki node`"
            )
        return self._authority.signer

    async def _issue(self, signer: Signer, key: PublicKey, identity: IdentityRecord) -> NodeCertificate:
        """A certificate; what it is from is noted first, since a CA is not retired while it is in use."""
        trusted = self._authority.certificate, self._authority.ids
        issued = datetime.fromtimestamp(max(self._now_ms(), identity.joined_at_ms) / 1000, UTC)
        certificate = signer.node(key, identity.node, identity.region, self._life, issued=issued)
        await self._note_issued(identity, authority_id(signer.certificate), certificate, trusted[1])
        return NodeCertificate(certificate=certificate.public_bytes(serialization.Encoding.PEM), cluster_ca=trusted[0])

    async def _note_issued(
        self, issued: IdentityRecord, authority: str, certificate: x509.Certificate, trusted: tuple[str, ...]
    ) -> None:
        until = int(certificate.not_valid_after_utc.timestamp() * 1000)

        async def decide(entry: Entry | None) -> Decision[None]:
            identity = None if entry is None else _read_identity(entry.value)
            if identity is None or identity.joined_at_ms != issued.joined_at_ms:
                raise CertificateSuperseded(issued.node)
            noted = msgspec.structs.replace(
                identity,
                authority=authority,
                issued_until_ms=until,
                trusted=trusted,
                former=self._former(identity, authority, trusted),
            )
            return Decision(None, encode(noted))

        await update(self._store, keys.identity(issued.node), decide, "the node's identity changed at each try")

    def _former(self, identity: IdentityRecord, authority: str, trusted: tuple[str, ...]) -> NotedCertificate | None:
        """What the node has if the next certificate, of these CAs, does not reach it."""
        now = self._now_ms()
        kept = identity.former if identity.former is not None and identity.former.until_ms > now else None
        if (identity.authority, identity.trusted) == (authority, trusted):
            return kept
        if identity.authority:
            last = NotedCertificate(identity.authority, identity.issued_until_ms, identity.trusted)
        elif identity.registered_at_ms:  # issued by an earlier release, for a whole life at most
            last = NotedCertificate("", now + int(self._life.total_seconds() * 1000))
        else:
            return None
        if kept is None:
            return last
        return NotedCertificate(
            kept.authority if kept.authority in trusted else last.authority,
            max(kept.until_ms, last.until_ms),
            tuple(one for one in last.trusted if one in kept.trusted),
        )


def _require_match(invitation: InvitationRecord, node: str, region: str) -> None:
    """Raises InvalidRequest and NotAllowed unless the invitation is for this node."""
    try:
        check_node(node)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    if region != invitation.region:
        raise NotAllowed(
            f"the invitation is for a node of region {invitation.region!r}, this one is of {region!r}: start it with "
            f"--region {invitation.region}, or invite one of its own region"
        )
    if invitation.node not in ("", node):
        raise NotAllowed(
            f"the invitation is for node {invitation.node!r}, this one is {node!r}: start it with "
            f"--name {invitation.node}, or invite it by its own name"
        )


def _requested_key(csr: bytes) -> PublicKey:
    if len(csr) > _LONGEST_CSR:
        raise InvalidRequest(f"a certificate request has at most {_LONGEST_CSR} bytes")
    try:
        return requested_key(csr)
    except PkiError as error:
        raise InvalidRequest(str(error)) from None


def _digest(key: PublicKey) -> bytes:
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()
