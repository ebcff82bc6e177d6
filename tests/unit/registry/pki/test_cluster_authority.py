"""The cluster's own CA: made once, the same for every replica."""

import asyncio

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from portway_registry.errors import StoreError
from portway_registry.pki.cluster_authority import stored_authority
from portway_registry.pki.signing import new_key
from portway_registry.state import keys
from portway_registry.store.embedded import EmbeddedStore


async def test_replicas_that_start_at_once_agree(memory: EmbeddedStore) -> None:
    """Whoever was first has made it; what one signs the other trusts."""
    found = await asyncio.gather(*(stored_authority(memory, now_ms=1) for _ in range(5)))
    assert len({one.certificate for one in found}) == 1
    assert found[0].signer is not None
    issued = found[0].signer.node(new_key().public_key(), "fra-1", "fra")
    issued.verify_directly_issued_by(x509.load_pem_x509_certificate(found[1].certificate))


async def test_it_stays_the_same(memory: EmbeddedStore) -> None:
    """A later start finds what the first has made."""
    first = await stored_authority(memory, now_ms=1)
    again = await stored_authority(memory, now_ms=2)
    assert first.certificate == again.certificate
    assert first.certificate == x509.load_pem_x509_certificate(first.certificate).public_bytes(
        serialization.Encoding.PEM
    )


@pytest.mark.parametrize("value", [b"noise", b'{"certificate": "bm9pc2U=", "private_key": "bm9pc2U="}'])
async def test_one_that_cannot_be_used_is_told(memory: EmbeddedStore, value: bytes) -> None:
    """It is not replaced by another, which no node would trust."""
    await memory.put(keys.AUTHORITY, value)
    with pytest.raises(StoreError, match="cannot be used"):
        await stored_authority(memory, now_ms=1)
    entry = await memory.get(keys.AUTHORITY)
    assert entry is not None
    assert entry.value == value
