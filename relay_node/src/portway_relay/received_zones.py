"""Certificates for regions' names that registries handed to this node, kept in a folder so that a restart serves with
every registry down.

Here: checking each, which of two is newer, files of one certificate and key each, readable by their owner only. Not
here: those given by hand, and which of both is shown (certificates.py).
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from portway_proto.v1.mesh_pb2 import ZoneCertificate
from portway_runtime.certificates import CertifiedKey, NamedFile, check_certified_key
from portway_runtime.clocks import UtcNow
from portway_runtime.errors import CertificateError
from portway_runtime.identities import DNS_LABEL, dns_names
from portway_runtime.secret_files import replace_file

logger = logging.getLogger(__name__)

_SUFFIX: Final = ".pem"
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"  # the key is in front of the first one


class ReceivedZones:
    """The certificates by zone. Each stays until a newer one comes, or its end."""

    def __init__(self, domain: str, folder: Path | None, now: UtcNow) -> None:
        """Read those of the last run. folder: where they are kept; None for memory alone."""
        self._domain = domain
        self._folder = folder
        self._now = now
        self._held: dict[str, CertifiedKey] = dict(self._stored())

    def current(self) -> Mapping[str, CertifiedKey]:
        """Those that have not ended, by zone."""
        now = self._now()
        return {zone: one for zone, one in self._held.items() if one.certificate.not_valid_after_utc > now}

    def receive(self, certificates: Iterable[ZoneCertificate]) -> bool:
        """Take over what is newer than what is held. Returns whether anything is. What cannot be used is logged."""
        changed = False
        for one in certificates:
            held = self._held.get(one.zone)
            if held is not None and held.chain == one.chain:
                continue
            try:
                identity = self._checked(one.zone, one.chain, one.key)
            except CertificateError as error:
                logger.error("a certificate from a registry is not used: %s", error, extra={"zone": one.zone})
                continue
            # A replica of the registry that is behind has the one before.
            if held is not None and _issued(held) > _issued(identity):
                continue
            self._held[one.zone] = identity
            self._store(one.zone, identity)
            changed = True
        return changed

    def _checked(self, zone: str, chain: bytes, key: bytes) -> CertifiedKey:
        """Raises CertificateError."""
        if not self._is_zone(zone):
            raise CertificateError(f"{zone!r} is no zone of {self._domain}")
        name, key_name = (NamedFile(Path(zone), f"the {what} of {zone}") for what in ("certificate", "key"))
        return self._for_zone(zone, check_certified_key(chain, key, name, key_name, self._now()))

    def _for_zone(self, zone: str, identity: CertifiedKey) -> CertifiedKey:
        names = dns_names(identity.certificate)
        if f"*.{zone}" not in names:
            raise CertificateError(f"the certificate of {zone} is valid for {', '.join(names) or 'no DNS name'}")
        return identity

    def _is_zone(self, zone: str) -> bool:
        region, _, rest = zone.partition(".")
        return rest == self._domain and DNS_LABEL.fullmatch(region) is not None

    def _stored(self) -> Iterable[tuple[str, CertifiedKey]]:
        if self._folder is None or not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            zone = path.name.removesuffix(_SUFFIX)
            if not self._is_zone(zone):
                continue  # of another domain
            file = NamedFile(path)
            try:
                key, begin, rest = file.read().partition(_BEGIN)
                yield zone, self._for_zone(zone, check_certified_key(begin + rest, key, file, file, self._now()))
            except CertificateError as error:
                logger.warning("a stored certificate is not used, a registry hands another one: %s", error)

    def _store(self, zone: str, identity: CertifiedKey) -> None:
        if self._folder is None:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._folder / f"{zone}{_SUFFIX}", identity.key + identity.chain)
        except OSError as error:
            logger.error(
                "a certificate from a registry is not stored, so that a restart needs a registry",
                extra={"zone": zone, "folder": str(self._folder), "reason": error.strerror or str(error)},
            )


def _issued(identity: CertifiedKey) -> float:
    return identity.certificate.not_valid_before_utc.timestamp()
