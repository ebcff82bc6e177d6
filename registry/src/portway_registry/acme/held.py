"""The certificates that the registry has obtained, as every replica reads them from the store and hands them on.

Here: unwrapping and decoding each once, the list for nodes, the certificate for the registry's own name. Not here:
obtaining them (keeper.py). A replica that has not the turn to obtain certificates holds the same ones.
"""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from portway_proto.v1.mesh_pb2 import ZoneCertificates
from portway_runtime.certificates import CertifiedKey
from portway_runtime.clocks import UtcNow
from portway_runtime.expiry import Watched
from portway_runtime.identities import UNREADABLE

from portway_registry.acme.wrapping import WrappingKey, open_wrapping_key
from portway_registry.acme.zones import is_region_zone
from portway_registry.config import Config
from portway_registry.errors import PkiError
from portway_registry.pki.cluster_authority import ClusterAuthority
from portway_registry.pki.signing import Signer, new_key, private_pem
from portway_registry.state.domain_records import CertificateRecord
from portway_registry.state.views import Item, View, Views
from portway_registry.store.contract import Store

logger = logging.getLogger(__name__)

_REMEDY: Final = "see above and `portway-admin certificate list` why it was not renewed"
# Bytes, before the last one. Nodes accept messages of 4 MiB: some 600 regions.
_LARGEST_PART: Final = 3_000_000
# Of what the public port shows until the first certificate is there.
_MAKESHIFT_LIFE: Final = timedelta(days=7)
_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")


def purpose(zone: str) -> str:
    """What a zone's wrapped key is bound to."""
    return f"the certificate of {zone}"


class HeldCertificates:
    """All certificates in the store, with their keys. `subscribe` tells of each change."""

    def __init__(self, view: View[CertificateRecord], wrapping: WrappingKey, domain: str, now: UtcNow) -> None:
        self._view = view
        self._wrapping = wrapping
        self._domain = domain
        self._now = now
        self._subscribers: list[Callable[[], None]] = []
        self._held: dict[str, CertifiedKey] = {}

    def start(self) -> Callable[[], None]:
        """Follow the view, which must be filled. Returns a function that ends it."""
        for item in self._view.items.values():
            self._take(item)
        return self._view.subscribe(self._changed)

    def subscribe(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` when a certificate has changed, from now on. Returns a function that ends it; it may be called
        again."""
        self._subscribers.append(changed)
        return lambda: self._subscribers.remove(changed) if changed in self._subscribers else None

    def get(self, zone: str) -> CertifiedKey | None:
        """The certificate of a zone or of the registry's name; the same object until it is replaced."""
        return self._held.get(zone)

    def for_nodes(self) -> tuple[ZoneCertificates, ...]:
        """Those of regions that have not ended, in as many messages as they need, at least one."""
        now, parts = self._now(), [ZoneCertificates()]
        for zone, one in sorted(self._held.items()):
            if is_region_zone(zone, self._domain) and one.certificate.not_valid_after_utc > now:
                if parts[-1].ByteSize() > _LARGEST_PART:
                    parts.append(ZoneCertificates())
                parts[-1].certificates.add(zone=zone, chain=one.chain, key=one.key)
        return tuple(parts)

    def watched(self) -> dict[str, Watched]:
        """For the warnings of their ends. A zone without a certificate is not among them."""
        return {zone: Watched(one.certificate, _REMEDY, renewed=True) for zone, one in self._held.items()}

    def failures(self) -> dict[str, int]:
        """Tries that failed since the last success, by zone."""
        return {record.zone: record.failures for record in self._view.values()}

    def _changed(self, old: Item[CertificateRecord] | None, new: Item[CertificateRecord] | None) -> None:
        either = new or old
        if either is None:
            return
        before = self._held.get(either.name)
        if new is None:
            self._held.pop(either.name, None)
        else:
            self._take(new)
        if self._held.get(either.name) is not before:
            for changed in tuple(self._subscribers):
                changed()

    def _take(self, item: Item[CertificateRecord]) -> None:
        """A record that cannot be used is named in the log, and the certificate before stays in use."""
        record = item.value
        before = self._held.get(item.name)
        if not record.chain or (before is not None and before.chain == record.chain):
            return
        try:
            key = self._wrapping.unwrap(record.key, purpose(item.name))
            leaf = x509.load_pem_x509_certificates(record.chain)[0]
            private = serialization.load_pem_private_key(key, None)
            if private.public_key() != leaf.public_key():
                raise PkiError("its key is not that of its certificate")
        except (PkiError, TypeError, *UNREADABLE) as error:
            logger.error(
                "a certificate in the store cannot be used: order another one (`portway-admin certificate renew %s`)",
                item.name,
                extra={"zone": item.name, "reason": str(error)},
            )
            return
        self._held[item.name] = CertifiedKey(record.chain, key, leaf)


async def open_held(config: Config, store: Store, views: Views, now: UtcNow) -> tuple[WrappingKey, HeldCertificates]:
    """The certificates in the store, of which the views are filled, and the key that wraps theirs. Raises ConfigError,
    StoreUnavailable."""
    assert config.domain is not None, "the settings were checked"
    wrapping = await open_wrapping_key(config.wrapping_key_file(), store)
    return wrapping, HeldCertificates(views.certificates, wrapping, config.domain, now)


class OwnNameCertificate:
    """The public port's certificate: the one obtained for the registry's own name. Until it is there, one of the
    cluster's own CA, with which nodes can join that were given that CA."""

    def __init__(self, held: HeldCertificates, name: str, authority: ClusterAuthority, now: UtcNow) -> None:
        self._held = held
        self._name = name
        self._now = now
        self._authority = authority
        self._makeshift: CertifiedKey | None = None

    def current(self) -> CertifiedKey:
        """As PortCertificate.current."""
        held = self._held.get(self._name)
        if held is not None:
            return held
        made = self._makeshift
        if made is None or self._now() >= made.certificate.not_valid_after_utc - _MAKESHIFT_LIFE / 2:
            made = self._makeshift = self._make()
        return made

    def reload(self) -> None:
        """It is from no file."""

    def _make(self) -> CertifiedKey:
        """A registry without the CA's key shows one that nobody trusts: the port works once a certificate is there."""
        signer = self._authority.signer or Signer.create()
        key = new_key()
        certificate = signer.registry(key.public_key(), (self._name, *_LOCAL_NAMES), _MAKESHIFT_LIFE)
        return CertifiedKey(certificate.public_bytes(serialization.Encoding.PEM), private_pem(key), certificate)
