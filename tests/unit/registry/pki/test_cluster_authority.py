"""The cluster's own CA: made once, the same for every replica."""

import asyncio
import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from portway_registry.config import Config
from portway_registry.errors import ConfigError, StoreError
from portway_registry.pki.cluster_authority import configured_authority, stored_authority
from portway_registry.pki.signing import new_key
from portway_registry.state import keys
from portway_registry.store.embedded import EmbeddedStore
from portway_runtime.clocks import utc_now
from portway_testkit.clusters.registry import Pki

YEAR = datetime.timedelta(days=365)


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


def test_the_files_of_an_authority_are_read(pki: Pki) -> None:
    """With its key the registry signs, without it operators do."""
    key = pki.folder / "ca.key"
    with_key = configured_authority(Config(cluster_ca=pki.ca, cluster_ca_key=key), utc_now())
    without = configured_authority(Config(cluster_ca=pki.ca), utc_now())
    assert with_key is not None
    assert without is not None
    assert with_key.certificate == without.certificate == pki.ca.read_bytes()
    assert (with_key.signer is None, without.signer is None) == (False, True)


def test_an_authority_s_file_may_have_a_byte_order_mark(pki: Pki, tmp_path: Path) -> None:
    """Clients and nodes are sent the certificate without it: their TLS would refuse it."""
    path = tmp_path / "ca.crt"
    path.write_text(pki.ca.read_text(), encoding="utf-8-sig")
    for key in (None, pki.folder / "ca.key"):
        found = configured_authority(Config(cluster_ca=path, cluster_ca_key=key), utc_now())
        assert found is not None
        assert found.certificate == pki.ca.read_bytes()


def test_a_key_without_its_authority_is_refused(pki: Pki) -> None:
    """It would silently do nothing."""
    with pytest.raises(ConfigError, match="goes with --cluster-ca"):
        configured_authority(Config(cluster_ca_key=pki.folder / "ca.key"), utc_now())


def test_without_files_the_cluster_has_its_own_authority() -> None:
    """Nothing is read, then."""
    assert configured_authority(Config(), utc_now()) is None


def test_an_expired_authority_is_refused(pki: Pki) -> None:
    """A cluster's CA that has expired is named itself, not what it signed."""
    with pytest.raises(ConfigError, match=f"--cluster-ca {pki.ca} expired"):
        configured_authority(Config(cluster_ca=pki.ca), utc_now() + 11 * YEAR)
