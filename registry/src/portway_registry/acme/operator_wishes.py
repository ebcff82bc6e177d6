"""What operators see of the certificates, and order: a renewal, a revocation. The replica whose turn it is does it.

Here: checking and storing the order. Not here: the calls of operators (services/admin.py).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography import x509

from portway_registry.acme.schedule import renewal_ms
from portway_registry.errors import InvalidRequest, NotFound, NotYet
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.domain_records import CertificateRecord, Revocation
from portway_registry.state.records import decoder, encode
from portway_registry.state.views import View
from portway_registry.store.contract import Entry, Store
from portway_registry.store.update import Decision, update

_read: Final = decoder(CertificateRecord)
_CONTENDED: Final = "the certificate's record changed at each try to write it"
# Of RFC 5280, those that an owner can give: unspecified, keyCompromise, superseded, cessationOfOperation.
_REASONS: Final = frozenset({0, 1, 4, 5})


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """A certificate that the cluster has or needs. `names` is empty for one that it does not need any more,
    `renew_at_ms` 0 for such a one and where there is no certificate yet. issuer: for people."""

    record: CertificateRecord
    names: tuple[str, ...]
    issuer: str
    renew_at_ms: int


class OperatorWishes:
    """The certificates that this cluster obtains."""

    def __init__(
        self,
        store: Store,
        view: View[CertificateRecord],
        wanted: Callable[[], dict[str, tuple[str, ...]]],
        audit: Audit,
        now_ms: Callable[[], int],
    ) -> None:
        """wanted: the names of each certificate that is needed, by zone."""
        self._store = store
        self._view = view
        self._wanted = wanted
        self._audit = audit
        self._now_ms = now_ms

    def all(self) -> dict[str, CertificateStatus]:
        """By zone."""
        wanted = self._wanted()
        zones = sorted(wanted.keys() | self._view.items.keys())
        return {zone: self._status(self._view.get(zone) or CertificateRecord(zone), wanted) for zone in zones}

    def failures(self) -> Iterable[str]:
        """One sentence for each certificate that could not be obtained or renewed at the last try."""
        for zone, status in self.all().items():
            if status.record.failures and status.names:
                what = "is not renewed" if status.record.chain else "is not obtained"
                yield f"the certificate of {zone} {what}: {status.record.failure}"

    async def renew(self, zone: str, *, by: str) -> CertificateStatus:
        """Order another certificate now. Raises NotFound, StoreUnavailable."""
        changed = await self._change(zone, lambda record: msgspec.structs.replace(record, wanted_at_ms=self._now_ms()))
        await self._audit.add_done(by, "certificate.renew", zone)
        return changed

    async def revoke(self, zone: str, *, reason: int, first: bool, by: str) -> CertificateStatus:
        """Order another certificate, and the revocation of this one: once the other is there, or with `first` before.

        Raises NotFound, NotYet while an earlier one is to be revoked, InvalidRequest for a reason that an owner cannot
        give, StoreUnavailable.
        """
        if reason not in _REASONS:
            raise InvalidRequest("a reason is unspecified, key-compromise, superseded or cessation-of-operation")

        def revoking(record: CertificateRecord) -> CertificateRecord:
            if not record.chain:
                raise NotFound(f"there is no certificate of {zone} to revoke")
            if record.revoking is not None and record.revoking.certificate != record.chain:
                raise NotYet(f"a certificate of {zone} from before is not revoked yet: wait, and look at the log")
            wish = Revocation(record.chain, reason, first)
            return msgspec.structs.replace(record, revoking=wish, wanted_at_ms=self._now_ms())

        changed = await self._change(zone, revoking)
        await self._audit.add_done(by, "certificate.revoke", zone)
        return changed

    async def _change(self, zone: str, change: Callable[[CertificateRecord], CertificateRecord]) -> CertificateStatus:
        wanted = self._wanted()
        if zone not in wanted and self._view.get(zone) is None:
            raise NotFound(f"no certificate of {zone!r} is known: see `portway-admin certificate list`")

        async def decide(entry: Entry | None) -> Decision[CertificateRecord]:
            record = CertificateRecord(zone) if entry is None else _decoded(entry)
            changed = change(record)
            return Decision(record, encode(changed))

        before = await update(self._store, keys.certificate(zone), decide, _CONTENDED)
        await self._view.caught_up_if_possible(zone)
        return self._status(before, wanted)

    def _status(self, record: CertificateRecord, wanted: dict[str, tuple[str, ...]]) -> CertificateStatus:
        names = wanted.get(record.zone, ())
        renew = renewal_ms(record) if record.chain and names else 0
        return CertificateStatus(record, names, _issuer(record.chain), renew)


def _decoded(entry: Entry) -> CertificateRecord:
    try:
        return _read(entry.value)
    except ValueError as error:
        raise NotYet(f"{entry.key} in the store is damaged: delete it, and another one is obtained") from error


def _issuer(chain: bytes) -> str:
    """The issuer's common name, or all of its name."""
    if not chain:
        return ""
    try:
        name = x509.load_pem_x509_certificates(chain)[0].issuer
        common = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except ValueError:
        return ""
    return str(common[0].value) if common else name.rfc4514_string()
