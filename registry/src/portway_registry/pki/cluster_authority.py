"""The cluster's own CA: what nodes and the registry's mesh port are known by.

It is made at the first start and kept in the store, so that every replica signs with the same; an operator may bring
one as files, with its key or without. Here: which it is. Not here: what is signed (signing.py), for whom (joining.py).
"""

import logging
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes

from portway_registry.errors import PkiError, StoreError
from portway_registry.pki.signing import Signer, private_pem
from portway_registry.state import keys
from portway_registry.state.records import AuthorityRecord, decoder, encode
from portway_registry.store.contract import Revision, Store

logger = logging.getLogger(__name__)

_ABSENT: Final = Revision(0)


@dataclass(frozen=True, slots=True)
class ClusterAuthority:
    """`certificate` (PEM, one or more) is what is trusted; without a `signer` operators make nodes' certificates."""

    certificate: bytes
    signer: Signer | None


async def stored_authority(store: Store, *, now_ms: int) -> ClusterAuthority:
    """The CA in the store, made when there is none: once, however many replicas start. Raises StoreUnavailable."""
    entry = await store.get(keys.AUTHORITY)
    if entry is None:
        made = Signer.create()
        record = AuthorityRecord(made.pem, private_pem(made.key), now_ms)
        if await store.put(keys.AUTHORITY, encode(record), expected=_ABSENT):
            fingerprint = made.certificate.fingerprint(hashes.SHA256()).hex()
            logger.info("cluster's CA made", extra={"sha256": fingerprint})
            return ClusterAuthority(made.pem, made)
        entry = await store.get(keys.AUTHORITY)
    if entry is None:
        raise StoreError("the cluster's CA vanished from the store while it was read")
    try:
        record = decoder(AuthorityRecord)(entry.value)
        signer = Signer.load(record.certificate, record.private_key, names=(keys.AUTHORITY, "its key"))
    except (ValueError, PkiError) as error:
        raise StoreError(f"{keys.AUTHORITY} in the store cannot be used: {error}") from error
    return ClusterAuthority(signer.pem, signer)
