"""A node's certificates: read from files, checked, and read again when the files change; those of zones also from
registries, where no file is given.

Here: which files there are, the names that each certificate must hold, and the one set that is in use; errors name the
file. Not here: what registries hand to the node (received_zones.py); TLS, which is the carrier's; it gets PEM.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from portway_carrier.errors import TlsSettingsError
from portway_carrier.values import ClientTls, ServerTls
from portway_proto.v1.mesh_pb2 import ZoneCertificate
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN
from portway_runtime.certificates import (
    CertifiedKey,
    LoadedFiles,
    NamedFile,
    authority_id,
    issued_by,
    issuer_id,
    load_certified_key,
    parse_certificates,
)
from portway_runtime.clocks import UtcNow, utc_now
from portway_runtime.errors import CertificateError
from portway_runtime.identities import dns_names
from portway_runtime.tls_choices import GROUPS, Group

from portway_relay.config import NodeConfig
from portway_relay.received_zones import ReceivedZones

logger = logging.getLogger(__name__)

# The ALPN protocols that visitors can be answered with, beside none.
VISITOR_PROTOCOLS: Final = ("http/1.1", "h2")
# Seconds between two looks at the files; tools that replace certificates allow servers a few.
_POLL_INTERVAL: Final = 3.0


@dataclass(frozen=True, slots=True)
class _Given:
    """What all files held at one time; `zones` are by hand."""

    ca: bytes
    authorities: tuple[x509.Certificate, ...]
    node: CertifiedKey
    zones: Mapping[str, CertifiedKey]


@dataclass(frozen=True, slots=True)
class LoadedCertificates:
    """All certificates of one time."""

    ca: bytes
    authorities: tuple[x509.Certificate, ...]
    node: CertifiedKey
    zones: Mapping[str, CertifiedKey]  # by `<region>.<domain>`
    _lane_tls: Mapping[tuple[str, Group], ServerTls]
    _visitor_tls: Mapping[tuple[str, str | None, Group], ServerTls]
    authority_ids: tuple[str, ...] = ()  # of `authorities`, sorted
    issuer: str = ""  # the id of the CA that issued the node's own certificate
    received: frozenset[str] = frozenset()  # the zones whose certificates are from registries, which renew them

    @property
    def node_der(self) -> bytes:
        """The node's own certificate."""
        return self.node.certificate.public_bytes(Encoding.DER)

    def settings(self) -> tuple[ServerTls | ClientTls, ...]:
        """The settings of every connection that this node accepts or dials with TLS, but for the names of servers."""
        dialled = (
            ClientTls(self.ca, "", MESH_ALPN, self.node.chain, self.node.key),
            ClientTls(self.ca, "", LINK_ALPN),
        )
        return (*dialled, *self._lane_tls.values(), *self._visitor_tls.values())

    def lane_tls(self, alpn: str, group: Group) -> ServerTls:
        """The settings for lanes: `alpn` is LINK_ALPN for those of clients, MESH_ALPN for those of other nodes."""
        return self._lane_tls[alpn, group]

    def visitor_tls(self, zone: str, alpn: str | None, group: Group) -> ServerTls:
        """The settings for a visitor of a name in `zone`, one of `zones`; `alpn` is the protocol chosen, if any, and
        `group` the key exchange group."""
        return self._visitor_tls[zone, alpn, group]


class Certificates:
    """The certificates in use: always one whole, checked set."""

    def __init__(
        self,
        config: NodeConfig,
        prepare: Callable[[Collection[ServerTls | ClientTls]], None],
        now: UtcNow = utc_now,
    ) -> None:
        """Read the files. `prepare` is the carrier's: a set is used only after it has succeeded. Raises
        CertificateError."""
        self._config = config
        self._prepare = prepare
        self._now = now
        self._received = ReceivedZones(config.domain, config.zones_folder, now)
        paths = (config.cluster_ca, config.cert, config.key, *config.tls_cert, *config.tls_key)
        self._set: LoadedCertificates
        self._files = LoadedFiles(paths, self._load)
        self._changed: list[Callable[[], None]] = []
        # Set once there is a certificate for this node's own names.
        self.serves_own_zone = asyncio.Event()
        self._note_own_zone()
        self._before: bytes | None = None  # the node's certificate before the last reload

    def own(self) -> list[bytes]:
        """The node's own certificate (DER), and the one before: a client that dials may have been shown that one."""
        own = [self._set.node_der]
        return own if self._before is None else [*own, self._before]

    def current(self) -> LoadedCertificates:
        """The set in use."""
        return self._set

    def link_tls(self, group: Group) -> ServerTls:
        """The settings for clients' lanes."""
        return self._set.lane_tls(LINK_ALPN, group)

    def mesh_tls(self, group: Group) -> ServerTls:
        """The settings for other nodes' lanes."""
        return self._set.lane_tls(MESH_ALPN, group)

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` each time another set is in use."""
        self._changed.append(changed)

    async def watch(self) -> None:
        """Reload whenever a file changes, until cancelled."""
        while True:
            await asyncio.sleep(_POLL_INTERVAL)
            self.reload_if_changed()

    def reload(self) -> bool:
        """Read the files again. Files that cannot be used are logged, and the set in use stays."""
        before = self._set.node_der
        try:
            self._files.reload()
        except CertificateError as error:
            logger.error("certificates not reloaded, the old ones stay in use: %s", error)
            return False
        if self._set.node_der != before:
            self._before = before
        self._tell("certificates reloaded")
        return True

    def receive(self, certificates: Iterable[ZoneCertificate]) -> None:
        """Use what a registry hands to this node, for zones without a file. What cannot be used is logged, and the set
        in use stays."""
        if not self._received.receive(certificates):
            return
        try:
            self._compose(self._files.value)
        except CertificateError as error:
            logger.error("certificates from a registry are not used: %s", error)
            return
        self._tell("certificates received")

    def _tell(self, event: str) -> None:
        logger.info(
            event,
            extra={
                zone: f"until {identity.certificate.not_valid_after_utc:%Y-%m-%d}"
                for zone, identity in self._set.zones.items()
            },
        )
        self._note_own_zone()
        for changed in self._changed:
            changed()

    def _note_own_zone(self) -> None:
        if self._config.zone in self._set.zones:
            self.serves_own_zone.set()

    def reload_if_changed(self) -> bool:
        """Reload when a file is not the one that was read last. Whether another set is in use."""
        return self._files.changed and self.reload()

    def _load(self) -> _Given:
        given = self._read()
        self._compose(given)
        return given

    def _compose(self, given: _Given) -> None:
        """Use the given files, and what was received for zones without one. Raises CertificateError; the set in use
        stays then."""
        received = {zone: one for zone, one in self._received.current().items() if zone not in given.zones}
        loaded = _loaded(given, received)
        try:
            self._prepare(loaded.settings())
        except TlsSettingsError as error:
            files = ", ".join((*map(str, (self._config.cert, *self._config.tls_cert)), *received))
            raise CertificateError(f"{files}: {error}", exhausted=error.exhausted) from error
        self._set = loaded

    def _read(self) -> _Given:
        config = self._config
        ca_file = NamedFile(config.cluster_ca)
        ca = ca_file.read()
        authorities = parse_certificates(ca, ca_file)
        node = load_certified_key(NamedFile(config.cert), NamedFile(config.key), self._now())
        _demand_name(config.cert, node.certificate, config.server_name)
        if not issued_by(node.certificate, authorities):
            raise CertificateError(
                f"{config.cert} was not issued by the CA in {config.cluster_ca}: "
                "make both with the same `portway-admin pki` folder"
            )
        return _Given(ca, authorities, node, self._load_zones())

    def _load_zones(self) -> dict[str, CertifiedKey]:
        """The first certificate for each zone; every one must be for a zone of the cluster. Raises CertificateError."""
        config = self._config
        zones: dict[str, CertifiedKey] = {}
        for cert_path, key_path in zip(config.tls_cert, config.tls_key, strict=True):
            identity = load_certified_key(NamedFile(cert_path), NamedFile(key_path), self._now())
            names = [name.removeprefix("*.") for name in dns_names(identity.certificate) if name.startswith("*.")]
            ours = [name for name in names if name.endswith(f".{config.domain}")]
            if not ours:
                raise CertificateError(
                    f"{cert_path} is valid for {', '.join(dns_names(identity.certificate)) or 'no DNS name'}, "
                    f"and must be for *.REGION.{config.domain}"
                )
            zones = dict.fromkeys(ours, identity) | zones
        return zones


def _loaded(given: _Given, received: Mapping[str, CertifiedKey]) -> LoadedCertificates:
    node, zones = given.node, {**received, **given.zones}
    return LoadedCertificates(
        given.ca,
        given.authorities,
        node,
        zones,
        {
            (alpn, group): ServerTls(node.chain, node.key, alpn=alpn, client_ca=client_ca, group=group)
            for alpn, client_ca in ((LINK_ALPN, None), (MESH_ALPN, given.ca))
            for group in GROUPS
        },
        {
            (zone, alpn, group): ServerTls(identity.chain, identity.key, alpn=alpn, group=group)
            for zone, identity in zones.items()
            for alpn in (None, *VISITOR_PROTOCOLS)
            for group in GROUPS
        },
        tuple(sorted(map(authority_id, given.authorities))),
        issuer_id(node.certificate, given.authorities),
        frozenset(received),
    )


def _demand_name(path: Path, certificate: x509.Certificate, name: str) -> None:
    names = dns_names(certificate)
    if name not in names:
        raise CertificateError(f"{path} is valid for {', '.join(names) or 'no DNS name'}, and must be for {name}")
