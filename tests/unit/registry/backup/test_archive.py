"""A back-up's file: what was written is read, and nothing else."""

import json

import pytest
from portway_registry.backup.archive import Archive, Record, encode, parse
from portway_registry.errors import BackupUnreadable

RECORDS = (
    Record("settings", b'{"cluster_id":"portway-1"}'),
    Record("presences/00", bytes(range(256))),
    Record("tokens/\u00e4", "tab\tline\u2028\r\n\x00\u00fc".encode()),
    Record("empty", b""),
)
ARCHIVE = Archive("portway-1", 1_700_000_000_123, "portway-registry 1.2.3", RECORDS)
FILE = b"".join(encode(ARCHIVE))


def test_what_was_written_is_read() -> None:
    """Values that are text and those that are not, byte for byte; also of no records."""
    assert parse(FILE) == ARCHIVE
    empty = Archive("portway-2", 1, "x", ())
    assert parse(b"".join(encode(empty))) == empty


def test_each_line_is_json_and_text_can_be_read() -> None:
    """A person sees keys, and values that are text, without a program."""
    lines = [json.loads(line) for line in FILE.decode("ascii").splitlines()]
    assert lines[0]["cluster"] == "portway-1"
    assert lines[1] == {"key": "settings", "text": '{"cluster_id":"portway-1"}'}
    assert set(lines[2]) == {"key", "base64"}
    assert lines[-1]["records"] == 4


@pytest.mark.parametrize("length", [0, 1, 40, len(FILE) // 2, len(FILE) - 90, len(FILE) - 2])
def test_a_file_that_is_cut_off_is_refused(length: int) -> None:
    """Wherever it ends: in the header, in a record, in the last line."""
    with pytest.raises(BackupUnreadable):
        parse(FILE[:length])


def test_a_file_without_its_last_line_is_cut_off() -> None:
    """Though every line of it is whole."""
    with pytest.raises(BackupUnreadable, match="cut off"):
        parse(b"".join(FILE.splitlines(keepends=True)[:-1]))


def test_a_changed_byte_is_noticed() -> None:
    """Also where the line is still a record."""
    with pytest.raises(BackupUnreadable, match="was changed"):
        parse(FILE.replace(b"tokens", b"tokenz"))


def test_another_version_is_refused_with_who_made_it() -> None:
    """A later form is not guessed at."""
    with pytest.raises(BackupUnreadable, match=r"form 2, this program reads 1.*portway-registry 1\.2\.3"):
        parse(FILE.replace(b'"portway_backup":1', b'"portway_backup":2'))


def test_another_file_is_no_backup() -> None:
    """Such as a JSON file of another program, or a picture."""
    for content in (b'{"a": 1}\n', b"\x89PNG\r\n", b"[]\n"):
        with pytest.raises(BackupUnreadable, match="no back-up"):
            parse(content)
