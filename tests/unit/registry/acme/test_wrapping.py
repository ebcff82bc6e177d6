"""Private keys in the store are wrapped with a key that is not there."""

import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from portway_registry.acme.wrapping import WrappingKey, open_wrapping_key
from portway_registry.errors import ConfigError, PkiError
from portway_registry.state import keys
from portway_registry.store.contract import Entry, Store
from portway_registry.store.open import open_store
from portway_registry.store.spec import parse_store

SECRET = b"-----BEGIN PRIVATE KEY-----"


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    opened = open_store(parse_store("embedded:memory"), on_failure=lambda error: None)
    yield opened
    await opened.close()


def test_what_is_wrapped_says_nothing() -> None:
    """Not even whether two are the same; its own key and purpose give it back."""
    key = WrappingKey(bytes(32))
    wrapped = [key.wrap(SECRET, "fra") for _ in range(2)]
    assert wrapped[0] != wrapped[1]
    assert all(SECRET[:8] not in one for one in wrapped)
    assert key.unwrap(wrapped[0], "fra") == SECRET


def test_one_cannot_be_put_in_the_place_of_another() -> None:
    """Whoever writes to the store could have a node show the key of another zone."""
    key = WrappingKey(bytes(32))
    wrapped = key.wrap(SECRET, "the certificate of fra")
    for damaged, purpose in ((wrapped, "the certificate of iad"), (wrapped[:-1], "the certificate of fra"), (b"", "")):
        with pytest.raises(PkiError):
            key.unwrap(damaged, purpose)
    with pytest.raises(PkiError):
        WrappingKey(bytes([1] * 32)).unwrap(wrapped, "the certificate of fra")


async def test_the_first_replica_makes_the_file(store: Store, tmp_path: Path) -> None:
    """For its owner alone; the store has no part of it."""
    path = tmp_path / "acme.key"
    made = await open_wrapping_key(path, store)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (await open_wrapping_key(path, store)).unwrap(made.wrap(SECRET, "a"), "a") == SECRET
    listed = await store.list("")
    assert [entry.key for entry in listed.entries] == [keys.ACME_KEY_ID]
    assert path.read_bytes().strip() not in listed.entries[0].value


async def test_a_replica_without_the_file_does_not_start(store: Store, tmp_path: Path) -> None:
    """It could not read what the others have stored, and would write what they cannot read."""
    await open_wrapping_key(tmp_path / "acme.key", store)
    with pytest.raises(ConfigError, match="is missing, and the store has keys"):
        await open_wrapping_key(tmp_path / "other.key", store)
    assert not (tmp_path / "other.key").exists()


async def test_a_replica_with_another_file_does_not_start(store: Store, tmp_path: Path) -> None:
    """Made for another cluster, or by a replica that began at the same moment."""
    await open_wrapping_key(tmp_path / "acme.key", store)
    (tmp_path / "other.key").write_text("A" * 43 + "=\n")
    (tmp_path / "other.key").chmod(0o600)
    with pytest.raises(ConfigError, match="not the file of this cluster's other replicas"):
        await open_wrapping_key(tmp_path / "other.key", store)


async def test_of_two_replicas_that_begin_at_once_one_starts(store: Store, tmp_path: Path) -> None:
    """Each makes a file, and the store decides whose it is."""

    class Behind:
        """Shows nothing of the other one at first."""

        shown = False

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def get(self, key: str) -> Entry | None:
            shown, self.shown = self.shown, True
            return await store.get(key) if shown else None

    late: Any = Behind()
    first = await open_wrapping_key(tmp_path / "acme.key", store)
    with pytest.raises(ConfigError, match="not the file of this cluster's other replicas"):
        await open_wrapping_key(tmp_path / "other.key", late)
    assert (await open_wrapping_key(tmp_path / "acme.key", store)).id == first.id


@pytest.mark.parametrize(
    ("content", "mode", "complaint"),
    [
        ("A" * 43 + "=\n", 0o604, "chmod 600"),
        ("A" * 43 + "=\n", 0o620, "chmod 600"),
        ("too short", 0o600, "no key file"),
        ("", 0o600, "no key file"),
        ("QUJD\n", 0o600, "no key file"),
    ],
)
async def test_a_file_that_cannot_be_used_is_named(
    store: Store, tmp_path: Path, content: str, mode: int, complaint: str
) -> None:
    """With what to do."""
    path = tmp_path / "acme.key"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=complaint) as caught:
        await open_wrapping_key(path, store)
    assert str(path) in str(caught.value)


async def test_a_credential_of_systemd_is_taken(store: Store, tmp_path: Path) -> None:
    """Its group may read it, and nobody write it."""
    path = tmp_path / "acme.key"
    path.write_text("A" * 43 + "=\n")
    path.chmod(0o440)
    assert (await open_wrapping_key(path, store)).id == WrappingKey(bytes(32)).id


async def test_a_folder_that_is_missing_is_named(store: Store, tmp_path: Path) -> None:
    """The file cannot be made."""
    with pytest.raises(ConfigError, match="cannot be made"):
        await open_wrapping_key(tmp_path / "no" / "acme.key", store)
