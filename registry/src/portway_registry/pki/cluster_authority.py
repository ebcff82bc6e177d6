"""The cluster's own CA, which nodes and the registry's mesh port are verified by; while it is replaced there are two.

It is created at the first start and kept in the store, so that every replica signs with the same key; an operator may
give one as files, with its key or without. Here: which CAs are trusted now and which of them issues. Not here: what is
signed, and for whom; when a CA is replaced (nodes/authority_rotation.py).
"""

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from portway_runtime.certificates import authority_id, check_validity, issued_by, parse_certificates
from portway_runtime.errors import CertificateError

from portway_registry.config import Config
from portway_registry.errors import ConfigError, PkiError, StoreError
from portway_registry.pki.signing import Signer, private_pem
from portway_registry.state import keys
from portway_registry.state.records import AuthorityRecord, StoredAuthority, decode_authority, encode
from portway_registry.state.views import Item, View
from portway_registry.store.contract import Store
from portway_registry.store.update import get_or_create

logger = logging.getLogger(__name__)

_MOST_REMEMBERED: Final = 4096  # nodes' certificates


class ClusterAuthority:
    """The CAs of the cluster as they are now. `subscribe` tells of each change."""

    def __init__(self, certificate: bytes, signer: Signer | None, *, from_files: bool = False) -> None:
        """`certificate`: PEM, one or more, is what is trusted; the first one issues. Without a `signer` operators make
        nodes' certificates. Raises ValueError for what cannot be read."""
        self.from_files = from_files
        self._subscribers: list[Callable[[], None]] = []
        self._retired: dict[str, x509.Certificate] = {}  # trusted earlier by this registry, and now no more
        self.trusted: dict[str, x509.Certificate] = {}
        self._set(certificate, signer)

    def _set(self, certificate: bytes, signer: Signer | None) -> None:
        trusted = {authority_id(one): one for one in x509.load_pem_x509_certificates(certificate)}
        both = self._retired | self.trusted
        self._retired = {authority: one for authority, one in both.items() if authority not in trusted}
        self._refused: dict[bytes, bool] = {}
        self.certificate = certificate
        self.signer = signer
        self.trusted = trusted
        self.ids = tuple(trusted)
        self.issuer_id = self.ids[0]

    def subscribe(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` after each change from now on. Returns a function that ends it; it may be called again."""
        self._subscribers.append(changed)
        return lambda: self._subscribers.remove(changed) if changed in self._subscribers else None

    def replace(self, certificate: bytes, signer: Signer | None) -> None:
        """Trust these CAs from now on, and issue with this one. Raises ValueError; nothing has changed then."""
        if certificate == self.certificate:
            self.signer = signer
            return
        self._set(certificate, signer)
        logger.info("cluster's CAs changed", extra={"issues": self.issuer_id, "trusted": ", ".join(self.ids)})
        for changed in tuple(self._subscribers):
            changed()

    def refuses(self, certificate: bytes) -> bool:
        """Whether a node's certificate (PEM) is from a CA that was retired since: a connection outlives the trust in
        what it was opened with. Remembered for each certificate, because it takes 0.1 ms."""
        if not self._retired or not certificate:
            return False
        if (known := self._refused.get(certificate)) is not None:
            return known
        if len(self._refused) >= _MOST_REMEMBERED:
            self._refused.clear()
        refused = issued_by(x509.load_pem_x509_certificate(certificate), tuple(self._retired.values()))
        self._refused[certificate] = refused
        return refused

    def follow(self, view: View[AuthorityRecord]) -> Callable[[], None]:
        """Be what the store has, from now on. A record that is gone or cannot be read is named in the log, and the CAs
        known before stay in use. Returns a function that ends it."""

        def changed(old: Item[AuthorityRecord] | None, new: Item[AuthorityRecord] | None) -> None:
            if new is None:
                logger.error(
                    "the cluster's CA is gone from the store, or damaged there. What is known of it stays in use until "
                    "this registry stops: put back a copy of the record before",
                    extra={"key": keys.AUTHORITY},
                )
                return
            try:
                self.replace(*_loaded(new.value))
            except (ValueError, PkiError) as error:
                logger.error(
                    "the cluster's CA in the store cannot be used, the one before stays in use: %s",
                    error,
                    extra={"key": keys.AUTHORITY},
                )

        item = view.items.get("")
        if item is not None:
            changed(None, item)
        return view.subscribe(changed)


def configured_authority(config: Config, now: datetime) -> ClusterAuthority | None:
    """The CA that the settings name; None when the cluster has its own. Raises ConfigError."""
    if config.cluster_ca is None:
        if config.cluster_ca_key is not None:
            raise ConfigError(
                "--cluster-ca-key goes with --cluster-ca: give both, or neither for a CA of the cluster's own"
            )
        return None
    return ClusterAuthority(*_files(config, now), from_files=True)


def reload_configured(authority: ClusterAuthority, config: Config, now: datetime) -> None:
    """Read the files again. Those that cannot be used are logged, and what was read before stays in use."""
    try:
        authority.replace(*_files(config, now))
    except ConfigError as error:
        logger.error("the cluster's CA was not reloaded, the one before stays in use: %s", error)


def _files(config: Config, now: datetime) -> tuple[bytes, Signer | None]:
    file = config.required_file("cluster_ca")
    try:
        text = file.read()
        for certificate in parse_certificates(text, file):
            check_validity(certificate, file, now)
        if config.cluster_ca_key is None:
            return text, None
        key = config.required_file("cluster_ca_key")
        return text, Signer.load(text, key.read(), names=(str(file), str(key)))
    except (CertificateError, PkiError) as error:
        raise ConfigError(str(error)) from error


async def stored_authority(store: Store, *, now_ms: int) -> ClusterAuthority:
    """The CA in the store, created when there is none: once, however many replicas start.

    Raises StoreUnavailable, and StoreError for a record that cannot be used.
    """

    def make() -> bytes:
        made = Signer.create()
        return encode(AuthorityRecord(made.pem, private_pem(made.key), now_ms))

    value, created = await get_or_create(store, keys.AUTHORITY, make)
    try:
        authority = ClusterAuthority(*_loaded(decode_authority(value)))
    except (ValueError, PkiError) as error:
        raise StoreError(
            f"{keys.AUTHORITY} in the store, the cluster's CA, cannot be used: {error}. Put back a copy of the record; "
            "without one delete it, start the registry again, and invite every node anew"
        ) from error
    if created:
        logger.info("cluster's CA made", extra={"id": authority.issuer_id})
    return authority


def new_stored(now_ms: int) -> StoredAuthority:
    """A new CA."""
    made = Signer.create()
    return StoredAuthority(made.pem, private_pem(made.key), now_ms)


def id_of(stored: StoredAuthority | AuthorityRecord) -> str:
    """The id of a CA in the store. Raises ValueError."""
    return authority_id(x509.load_pem_x509_certificate(stored.certificate))


def _loaded(record: AuthorityRecord) -> tuple[bytes, Signer]:
    """What is trusted, the CA that issues first, and that one's key. Raises ValueError and PkiError."""
    names = (keys.AUTHORITY, "its key")
    signer = Signer.load(record.certificate, record.private_key, names=names)
    others = [x509.load_pem_x509_certificate(one.certificate) for one in (record.next, record.before) if one]
    return signer.pem + b"".join(one.public_bytes(Encoding.PEM) for one in others), signer
