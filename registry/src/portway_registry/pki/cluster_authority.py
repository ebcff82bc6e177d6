"""The cluster's own CA, which nodes and the registry's mesh port are verified by.

It is created at the first start and kept in the store, so that every replica signs with the same key; an operator may
give one as files, with its key or without. Here: which CA it is. Not here: what is signed, and for whom.
"""

import logging
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives import hashes
from portway_runtime.certificates import check_validity, parse_certificates
from portway_runtime.errors import CertificateError

from portway_registry.config import Config
from portway_registry.errors import ConfigError, PkiError, StoreError
from portway_registry.pki.signing import Signer, private_pem
from portway_registry.state import keys
from portway_registry.state.records import AuthorityRecord, decoder, encode
from portway_registry.store.contract import Store
from portway_registry.store.update import get_or_create

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClusterAuthority:
    """`certificate` (PEM, one or more) is what is trusted. Without a `signer` operators make nodes' certificates."""

    certificate: bytes
    signer: Signer | None


def configured_authority(config: Config, now: datetime) -> ClusterAuthority | None:
    """The CA that the settings name; None when the cluster has its own. Raises ConfigError."""
    if config.cluster_ca is None:
        if config.cluster_ca_key is not None:
            raise ConfigError(
                "--cluster-ca-key goes with --cluster-ca: give both, or neither for a CA of the cluster's own"
            )
        return None
    file = config.required_file("cluster_ca")
    try:
        text = file.read()
        for certificate in parse_certificates(text, file):
            check_validity(certificate, file, now)
        if config.cluster_ca_key is None:
            return ClusterAuthority(text, None)
        key = config.required_file("cluster_ca_key")
        return ClusterAuthority(text, Signer.load(text, key.read(), names=(str(file), str(key))))
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
        record = decoder(AuthorityRecord)(value)
        signer = Signer.load(record.certificate, record.private_key, names=(keys.AUTHORITY, "its key"))
    except (ValueError, PkiError) as error:
        raise StoreError(f"{keys.AUTHORITY} in the store cannot be used: {error}") from error
    if created:
        logger.info("cluster's CA made", extra={"sha256": signer.certificate.fingerprint(hashes.SHA256()).hex()})
    return ClusterAuthority(signer.pem, signer)
