"""portway.engine.key_file: a tunnel's key and tickets on disk, and what is wrong with a file that cannot be used."""

import json
import logging
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from portway.engine import key_file as module
from portway.engine.key_file import MAX_TICKETS, KeyFile
from portway.errors import ConfigError
from portway_testkit.processes.threads import no_more_threads


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def pem(
    key: Ed25519PrivateKey | rsa.RSAPrivateKey,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def no_drafts(folder: Path) -> bool:
    return not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_the_first_use_makes_it_for_its_owner_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the folders that are missing; later uses read it, and so do other programs that know PEM."""
    caplog.set_level(logging.INFO, "portway")
    path = tmp_path / "new" / "folder" / "api.key"
    key = KeyFile(path).key
    assert "keep it secret" in caplog.text
    assert mode_of(path) == 0o600
    assert [mode_of(tmp_path / "new"), mode_of(path.parent)] == [0o700, 0o700]
    assert path.read_bytes() == pem(Ed25519PrivateKey.from_private_bytes(key.private))
    assert KeyFile(path).key.private == key.private
    assert no_drafts(path.parent)


def test_other_programs_can_make_it(tmp_path: Path) -> None:
    """As `openssl genpkey -algorithm ed25519` does; it may be a link, and read-only."""
    key = Ed25519PrivateKey.generate()
    (tmp_path / "link").symlink_to(written(tmp_path / "key", pem(key), 0o400))
    assert KeyFile(tmp_path / "link").key.private == key.private_bytes_raw()


def test_two_programs_that_start_together_have_one_key(tmp_path: Path) -> None:
    """Whoever comes second reads what the first has made, whole."""
    start = threading.Barrier(8)
    found: list[bytes] = []

    def use() -> None:
        start.wait()
        found.append(KeyFile(tmp_path / "folder" / "key").key.private)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert no_drafts(tmp_path / "folder")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_one_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    """As ssh does, with the command that closes it."""
    path = written(tmp_path / "key", pem(Ed25519PrivateKey.generate()), mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:04o}.* chmod 600 {path}"):
        KeyFile(path)


def test_one_of_another_user_may_be_for_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a secret that is mounted into a container is; not for everybody."""
    path = written(tmp_path / "key", pem(Ed25519PrivateKey.generate()), 0o440)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    KeyFile(path)
    path.chmod(0o444)
    with pytest.raises(ConfigError, match="open to others"):
        KeyFile(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty: remove it"),
        (b" \n", "is empty: remove it"),
        (b"pw_id_secret\n", "holds no private key in PEM"),
        (b"-----BEGIN PRIVATE KEY-----\nbm9uZQ==\n-----END PRIVATE KEY-----\n", "holds no private key in PEM"),
        (b"\0" * 100_000, "holds no private key in PEM"),
        (pem(rsa.generate_private_key(65537, 2048)), r"a key of another kind \(RSA\), not Ed25519"),
        (pem(Ed25519PrivateKey.generate(), PrivateFormat.OpenSSH), "holds no private key in PEM"),
        (
            pem(Ed25519PrivateKey.generate(), encryption=BestAvailableEncryption(b"secret")),
            "is protected by a passphrase",
        ),
        (
            Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "holds no private key in PEM",
        ),
    ],
    ids=["empty", "blank", "a token", "broken", "binary", "RSA", "OpenSSH", "passphrase", "public"],
)
def test_what_is_no_key_is_refused_and_kept(tmp_path: Path, content: bytes, what: str) -> None:
    """The error says what it is instead."""
    path = written(tmp_path / "key", content)
    with pytest.raises(ConfigError, match=what) as raised:
        KeyFile(path)
    assert str(path) in str(raised.value)
    assert path.read_bytes() == content


def test_a_folder_is_no_key(tmp_path: Path) -> None:
    """Nor is a pipe, which is not waited for; nor a file below a file."""
    with pytest.raises(ConfigError, match=r"is a folder: name a file in it, such as .*tunnel\.key"):
        KeyFile(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="is not a file"):
        KeyFile(tmp_path / "pipe")
    written(tmp_path / "file", b"x")
    with pytest.raises(ConfigError, match="a part of its path is not a folder"):
        KeyFile(tmp_path / "file" / "key")


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (PermissionError(13, "Permission denied"), r"cannot be made \(Permission denied\): .* must be this user's own"),
        (OSError(30, "Read-only file system"), r"cannot be made \(Read-only file system\): the folder is read-only"),
        (OSError(28, "No space left on device"), r"cannot be made \(No space left on device\)"),
    ],
)
def test_one_that_cannot_be_made_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, what: str
) -> None:
    """In the system's words, and what to do."""

    def fail(*_: object) -> bool:
        raise error

    monkeypatch.setattr(module, "create_file", fail)
    with pytest.raises(ConfigError, match=what):
        KeyFile(tmp_path / "key")


def test_one_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose it must be."""
    path = written(tmp_path / "key", b"")

    def fail(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(ConfigError, match=rf"cannot be read \(Permission denied\): {path} must be this user's own"):
        KeyFile(path)


def test_tickets_are_kept_beside_it(tmp_path: Path, tickets_written: Callable[[], None]) -> None:
    """Each host's newest one, for the owner alone."""
    path = tmp_path / "key"
    file = KeyFile(path)
    for host, ticket in (("a.fra.test", b"1"), ("a.iad.test", b"2"), ("a.fra.test", b"\xff3")):
        file.keep_ticket(host, ticket)
    tickets_written()
    again = KeyFile(path)
    assert [again.ticket(host) for host in ("a.fra.test", "a.iad.test", "a.ord.test")] == [b"\xff3", b"2", b""]
    assert mode_of(tmp_path / "key.tickets") == 0o600
    assert no_drafts(tmp_path)


def test_a_ticket_that_no_thread_wrote_is_written_with_the_next(
    tmp_path: Path, tickets_written: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """It is in use at once; the log says what to raise. The next may be the same one."""
    file = KeyFile(tmp_path / "key")
    with no_more_threads():
        file.keep_ticket("a.fra.test", b"1")
    assert "is not written now: can't start new thread: raise " in caplog.text
    assert file.ticket("a.fra.test") == b"1"
    assert not (tmp_path / "key.tickets").exists()
    file.keep_ticket("a.fra.test", b"1")
    tickets_written()
    assert KeyFile(tmp_path / "key").ticket("a.fra.test") == b"1"


def test_tickets_are_read_with_the_key(tmp_path: Path, tickets_written: Callable[[], None]) -> None:
    """Later on whoever asks for one, on an event loop, waits for no disk."""
    KeyFile(tmp_path / "key").keep_ticket("a.fra.test", b"1")
    tickets_written()
    file = KeyFile(tmp_path / "key")
    (tmp_path / "key.tickets").unlink()
    assert file.ticket("a.fra.test") == b"1"


def test_more_tickets_than_are_kept_are_not_read(tmp_path: Path) -> None:
    """The last ones of the file are."""
    texts = {f"a.r{number}.test": "MQ==" for number in range(MAX_TICKETS + 5)}
    written(tmp_path / "key.tickets", json.dumps(texts).encode())
    file = KeyFile(tmp_path / "key")
    assert [file.ticket(host) for host in texts] == [b""] * 5 + [b"1"] * MAX_TICKETS


def test_only_the_latest_tickets_are_kept(tmp_path: Path, tickets_written: Callable[[], None]) -> None:
    """A bounded number; one that is not new is not written again."""
    file = KeyFile(tmp_path / "key")
    for number in range(MAX_TICKETS + 5):
        file.keep_ticket(f"a.r{number}.test", b"ticket")
    tickets_written()
    kept = tmp_path / "key.tickets"
    assert set(json.loads(kept.read_bytes())) == {f"a.r{number}.test" for number in range(5, MAX_TICKETS + 5)}
    kept.unlink()
    file.keep_ticket("a.r7.test", b"ticket")
    tickets_written()
    assert not kept.exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[]", b'{"a": 1}', b'{"a": "?"}', b"\xff"])
def test_tickets_that_cannot_be_read_are_none(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture, tickets_written: Callable[[], None]
) -> None:
    """The tunnel may get another port, and its program is told why; the next ones are kept."""
    written(tmp_path / "key.tickets", content)
    file = KeyFile(tmp_path / "key")
    assert file.ticket("a") == b""
    assert "may get another TCP port" in caplog.text
    file.keep_ticket("a", b"ticket")
    tickets_written()
    assert KeyFile(tmp_path / "key").ticket("a") == b"ticket"


def test_tickets_that_cannot_be_written_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tickets_written: Callable[[], None]
) -> None:
    """The tunnel works on."""
    file = KeyFile(tmp_path / "key")
    (tmp_path / "key.tickets").mkdir()
    (tmp_path / "key.tickets" / "x").touch()
    file.keep_ticket("a", b"ticket")
    tickets_written()
    assert "cannot be written" in caplog.text
