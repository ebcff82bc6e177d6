"""A node's certificates: the first for an invitation, each further one for the certificate before.

Here: who may have one, under which name and region. Not here: how it is made (signing.py), who may call with the one
that a node has (standing.py).
"""

import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from cryptography.hazmat.primitives import serialization
from portway_proto.v1.types_pb2 import NodeCertificate

from portway_registry.access.invitations import why_over
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
from portway_registry.pki.cluster_authority import ClusterAuthority
from portway_registry.pki.signing import PublicKey, Signer, requested_key
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.records import IdentityRecord, InvitationRecord, Order, OrderRecord, decoder, encode
from portway_registry.store.contract import Entry, Store
from portway_registry.store.update import Decision, revision_of, update

logger = logging.getLogger(__name__)

_read_invitation: Final = decoder(InvitationRecord)
_read_identity: Final = decoder(IdentityRecord)
_read_order: Final = decoder(OrderRecord)


class Joining:
    """Gives nodes their certificates. All it decides by is read from the store, not from memory that may be behind."""

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
        """The node's first certificate. One token is good for one key: whoever lost the answer asks again with it.

        Raises InvalidRequest, NotAllowed and its kinds, NotAuthenticated's kinds, StoreUnavailable.
        """
        signer, key = self._signer(), _key(csr)
        _demand_fits(invitation, node, region)
        digest = _digest(key)
        used, again = await self._use(invitation.id, node, digest)
        joined = await self._take_name(used, again=again)
        if not again:
            logger.info("node joined", extra={"node": node, "region": region, "invitation": used.id})
            await self._audit.add(used.id, "node.join", node)
        return self._signed(signer, key, joined)

    async def renew(self, node: str, issued_ms: int, csr: bytes) -> NodeCertificate:
        """The next certificate of a node that showed one which was issued at `issued_ms`.

        Raises InvalidRequest, NodeRemoved, CertificateSuperseded, NotAllowed, StoreUnavailable.
        """
        signer, key = self._signer(), _key(csr)
        if await self._removal(node) is not None:
            raise NodeRemoved(node)
        entry = await self._store.get(keys.identity(node))
        if entry is None:
            raise NotAllowed(f"node {node} did not join by invitation: renew its certificate where it was made")
        identity = _read_identity(entry.value)
        if issued_ms < identity.joined_at_ms:
            raise CertificateSuperseded(node)
        return self._signed(signer, key, identity)

    async def _use(self, invitation_id: str, node: str, digest: bytes) -> tuple[InvitationRecord, bool]:
        """Mark it used, in one step: of two that come at once one is refused. True when this key has used it before."""

        async def decide(entry: Entry | None) -> Decision[tuple[InvitationRecord, bool]]:
            if entry is None:
                raise InvitationUnknown
            record = _read_invitation(entry.value)
            now = self._now_ms()
            if record.used_at_ms and not record.revoked_at_ms and (record.used_by, record.key_sha256) == (node, digest):
                return Decision((record, True))
            over = why_over(record, now)
            if over:
                raise InvitationOver(over)
            await self._demand_free(record, node)
            used = msgspec.structs.replace(record, used_at_ms=now, used_by=node, key_sha256=digest)
            return Decision((used, False), encode(used))

        return await update(
            self._store, keys.invitation(invitation_id), decide, "the invitation changed at each try to use it"
        )

    async def _demand_free(self, invitation: InvitationRecord, node: str) -> None:
        """A name belongs to who joined with it until that node is removed, or another is invited by this very name."""
        if invitation.node == node or await self._removal(node) is not None:
            return
        if await self._store.get(keys.identity(node)) or await self._store.get(keys.node(node)):
            raise NameTaken(node, invitation.region)

    async def _take_name(self, used: InvitationRecord, *, again: bool) -> IdentityRecord:
        """From now on the name is whose invitation it is, and certificates of before are worth nothing."""
        node = used.used_by
        entry, removal = await self._store.get(keys.identity(node)), await self._removal(node)
        if again and removal is not None and _read_order(removal.value).at_ms >= used.used_at_ms:
            raise NodeRemoved(node)
        before = None if entry is None else _read_identity(entry.value)
        if before is not None and before.invitation == used.id:
            return before
        if again and before is not None and before.joined_at_ms > used.used_at_ms:
            raise InvitationOver(f"was used by node {node}, which has been invited anew since")
        if removal is not None:
            await self._store.delete(removal.key, expected=removal.modified)
        anew = before is not None or removal is not None or await self._store.get(keys.node(node)) is not None
        # Certificates count in whole seconds, and whatever was issued for the name until now must be older.
        joined_at_ms = (self._now_ms() // 1000 + 1) * 1000
        if before is not None:
            joined_at_ms = max(joined_at_ms, before.joined_at_ms + 1000)
        identity = IdentityRecord(node, used.region, used.id, joined_at_ms, anew=anew)
        if not await self._store.put(keys.identity(node), encode(identity), expected=revision_of(entry)):
            raise NameTaken(node, used.region)
        return identity

    async def _removal(self, node: str) -> Entry | None:
        """The order that removed it, if one stands."""
        entry = await self._store.get(keys.order(node))
        return entry if entry is not None and _read_order(entry.value).order is Order.REMOVE else None

    def _signer(self) -> Signer:
        if self._authority.signer is None:
            raise InvalidRequest(
                "this registry was given the cluster's CA without its key, and can make no certificate: start it with "
                "--cluster-ca-key, or make the node's with `portway-admin pki node`"
            )
        return self._authority.signer

    def _signed(self, signer: Signer, key: PublicKey, identity: IdentityRecord) -> NodeCertificate:
        issued = datetime.fromtimestamp(max(self._now_ms(), identity.joined_at_ms) / 1000, UTC)
        certificate = signer.node(key, identity.node, identity.region, self._life, issued=issued)
        return NodeCertificate(
            certificate=certificate.public_bytes(serialization.Encoding.PEM), cluster_ca=self._authority.certificate
        )


def _demand_fits(invitation: InvitationRecord, node: str, region: str) -> None:
    """Whether the node is whom the invitation is for. Raises InvalidRequest and NotAllowed."""
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


def _key(csr: bytes) -> PublicKey:
    try:
        return requested_key(csr)
    except PkiError as error:
        raise InvalidRequest(str(error)) from None


def _digest(key: PublicKey) -> bytes:
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()
