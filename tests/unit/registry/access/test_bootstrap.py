"""What the first start of a cluster makes, and how further ones find it."""

import asyncio
import stat
from pathlib import Path

import pytest
from portway_registry.access.bootstrap import bootstrap
from portway_registry.access.tokens import parse_token
from portway_registry.errors import ConfigError
from portway_registry.state import keys
from portway_registry.state.records import GrantKeyRecord, Role, TokenRecord, decoder
from portway_registry.store.embedded import EmbeddedStore


async def first_admin(store: EmbeddedStore) -> TokenRecord | None:
    entry = await store.get(keys.token("admin"))
    return None if entry is None else decoder(TokenRecord)(entry.value)


async def test_the_first_start_makes_a_cluster(memory: EmbeddedStore, tmp_path: Path) -> None:
    """An id, a key, and an admin token in a file that only its owner can read."""
    path = tmp_path / "deep" / "admin-token"
    made = await bootstrap(memory, admin_token_file=path, now_ms=7)
    assert made.created_at_ms == 7
    key = await memory.get(keys.grant_key("1"))
    assert key is not None
    assert decoder(GrantKeyRecord)(key.value).kid == "1"
    record = await first_admin(memory)
    assert record is not None
    shown = parse_token(path.read_text().strip())
    assert (shown.id, record.role, shown.matches(record.secret_sha256)) == ("admin", Role.ADMIN, True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_later_starts_change_nothing(memory: EmbeddedStore, tmp_path: Path) -> None:
    """The second start finds the cluster as it is, whether the token file is still there or not."""
    path = tmp_path / "admin-token"
    first = await bootstrap(memory, admin_token_file=path, now_ms=1)
    revision = (await memory.list("")).revision
    path.unlink()
    assert await bootstrap(memory, admin_token_file=path, now_ms=2) == first
    assert (await memory.list("")).revision == revision
    assert not path.exists()


async def test_starts_at_the_same_time_agree(memory: EmbeddedStore, tmp_path: Path) -> None:
    """Of replicas with files of their own, one has the token that counts, and the others' files are gone."""
    paths = [tmp_path / f"token-{number}" for number in range(4)]
    made = await asyncio.gather(*(bootstrap(memory, admin_token_file=path, now_ms=1) for path in paths))
    assert len({one.cluster_id for one in made}) == 1
    (left,) = [path for path in paths if path.exists()]
    record = await first_admin(memory)
    assert record is not None
    assert parse_token(left.read_text().strip()).matches(record.secret_sha256)


async def test_starts_that_share_a_file_agree(memory: EmbeddedStore, tmp_path: Path) -> None:
    """Replicas with one file leave it with the token that counts."""
    path = tmp_path / "admin-token"
    await asyncio.gather(*(bootstrap(memory, admin_token_file=path, now_ms=1) for _ in range(4)))
    record = await first_admin(memory)
    assert record is not None
    assert parse_token(path.read_text().strip()).matches(record.secret_sha256)
    assert [found.name for found in tmp_path.iterdir()] == ["admin-token"]  # noqa: ASYNC240


async def test_a_start_that_was_cut_short_is_gone_on_with(memory: EmbeddedStore, tmp_path: Path) -> None:
    """A token that is in the file already, and not in the store, becomes the cluster's."""
    path = tmp_path / "admin-token"
    text = f"pw_admin_{'a' * 32}"
    path.write_text(text + "\n")
    await bootstrap(memory, admin_token_file=path, now_ms=1)
    record = await first_admin(memory)
    assert record is not None
    assert parse_token(text).matches(record.secret_sha256)
    assert path.read_text() == text + "\n"


@pytest.mark.parametrize("content", ["", "no token\n", f"pw_other_{'a' * 32}\n"])
async def test_another_file_in_its_place_is_not_touched(memory: EmbeddedStore, tmp_path: Path, content: str) -> None:
    """A file that holds something else is an error that names it, and stays as it is."""
    path = tmp_path / "admin-token"
    path.write_text(content)
    with pytest.raises(ConfigError, match="move the file away"):
        await bootstrap(memory, admin_token_file=path, now_ms=1)
    assert path.read_text() == content
    assert await first_admin(memory) is None


async def test_a_file_that_cannot_be_written_is_named(memory: EmbeddedStore, tmp_path: Path) -> None:
    """A path below a file is no path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write --admin-token-file .*file/token"):
        await bootstrap(memory, admin_token_file=tmp_path / "file" / "token", now_ms=1)


async def test_without_a_file_there_is_no_token(memory: EmbeddedStore) -> None:
    """A registry that was told no file makes no admin token: nobody could read it."""
    await bootstrap(memory, admin_token_file=None, now_ms=1)
    assert await first_admin(memory) is None
