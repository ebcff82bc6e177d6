"""`portway-registry export` and `import`, as processes: files, what is printed, exit codes."""

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from portway_registry.access.bootstrap import bootstrap
from portway_registry.store.embedded import EmbeddedStore

RUN = "from portway_registry.cli import main; main()"


def run(*arguments: str, given: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTWAY_")}
    command = [sys.executable, "-W", "error", "-c", RUN, *arguments]
    return subprocess.run(
        command, capture_output=True, input=given, env=environment | variables, timeout=50, check=False
    )


@pytest.fixture
def registry_db(tmp_path: Path) -> Path:
    """The file of a registry that has started once."""
    path = tmp_path / "registry.db"

    async def start() -> None:
        store = EmbeddedStore(path, on_failure=print)
        await bootstrap(store, admin_token_file=tmp_path / "token", now_ms=1)
        await store.close()

    asyncio.run(start())
    return path


def test_a_store_goes_to_a_file_and_back(registry_db: Path, tmp_path: Path) -> None:
    """Only the owner can read the file and the new store, and it is said what is in it."""
    backup, restored = tmp_path / "backup", tmp_path / "restored.db"
    out = run("export", "--store", f"embedded:{registry_db}", str(backup))
    assert out.returncode == 0, out.stderr
    assert b"3 records of cluster portway-" in out.stderr
    assert b"private keys" in out.stderr
    assert out.stdout == b""
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    back = run("import", str(backup), PORTWAY_REGISTRY_STORE=f"embedded:{restored}")
    assert back.returncode == 0, back.stderr
    assert stat.S_IMODE(restored.stat().st_mode) == 0o600
    again = run("export", "-", "--store", f"embedded:{restored}")
    assert again.stdout.splitlines()[1:-1] == backup.read_bytes().splitlines()[1:-1]
    assert run("import", "-", "--store", f"embedded:{tmp_path / 'third.db'}", given=again.stdout).returncode == 0


def test_what_is_there_is_not_overwritten(registry_db: Path, tmp_path: Path) -> None:
    """Neither a file by an export nor a store by an import."""
    backup = tmp_path / "backup"
    backup.write_bytes(b"mine")
    out = run("export", "--store", f"embedded:{registry_db}", str(backup))
    assert (out.returncode, backup.read_bytes()) == (2, b"mine")
    assert b"exists" in out.stderr
    backup.unlink()
    assert run("export", "--store", f"embedded:{registry_db}", str(backup)).returncode == 0
    back = run("import", "--store", f"embedded:{registry_db}", str(backup))
    assert back.returncode == 1
    assert b"--replace portway-" in back.stderr


def test_what_cannot_be_moved_is_said_in_one_line(registry_db: Path, tmp_path: Path) -> None:
    """A store that is not there is not made; one in memory, a file that is no back-up, none at all."""
    missing = tmp_path / "missing.db"
    for arguments, code, says in (
        (["export", "--store", f"embedded:{missing}", str(tmp_path / "x")], 2, b"no file with a store"),
        (["export", "--store", "embedded:memory", str(tmp_path / "x")], 2, b"no file with a store"),
        (["import", "--store", "embedded:memory", str(registry_db)], 2, b"keeps nothing"),
        (["import", "--store", f"embedded:{missing}", str(registry_db)], 1, b"no back-up"),
        (["import", "--store", f"embedded:{missing}", str(tmp_path / "none")], 1, b"cannot read"),
    ):
        ended = run(*arguments)
        assert (ended.returncode, ended.stdout) == (code, b"")
        assert says in ended.stderr
        assert ended.stderr.startswith(b"portway-registry: ")
        assert len(ended.stderr.splitlines()) == 1
    assert not missing.exists()


def test_a_store_in_use_is_not_exported(registry_db: Path, tmp_path: Path) -> None:
    """An embedded store belongs to the registry that runs."""

    async def hold() -> subprocess.CompletedProcess[bytes]:
        store = EmbeddedStore(registry_db, on_failure=print)
        try:
            arguments = ["export", "--store", f"embedded:{registry_db}", str(tmp_path / "backup")]
            return await asyncio.to_thread(run, *arguments)
        finally:
            await store.close()

    out = asyncio.run(hold())
    assert out.returncode == 2
    assert b"in use by another registry: stop that one first" in out.stderr
