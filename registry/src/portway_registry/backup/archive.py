"""A back-up as a file: text, one JSON object a line.

    {"portway_backup": 1, "cluster": ..., "made_at_ms": ..., "by": ...}     the header; 1 is the form's version
    {"key": "tokens/admin", "text": ...}    a record: its key below the store's root, and its value
    {"key": "presences/...", "base64": ...} one whose value is not UTF-8
    {"records": 12, "sha256": ...}          the last line: how many, and the hash of all bytes before this line

Here: the form, without I/O. Not here: which records of a store are in a back-up (moving.py).
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from portway_registry.errors import BackupUnreadable

# The version of the form that is written, and the only one that is read.
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Record:
    """A key, without the store's root in front, and its value."""

    key: str
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Archive:
    """The records of one cluster at one time (milliseconds since the Unix epoch). `by`: the program and its release."""

    cluster: str
    made_at_ms: int
    by: str
    records: tuple[Record, ...]


def encode(archive: Archive) -> Iterator[bytes]:
    """The file's lines, each with its end."""
    whole = hashlib.sha256()
    header: dict[str, object] = {
        "portway_backup": VERSION,
        "cluster": archive.cluster,
        "made_at_ms": archive.made_at_ms,
        "by": archive.by,
    }
    for line in map(_line, (header, *map(_told, archive.records))):
        whole.update(line)
        yield line
    yield _line({"records": len(archive.records), "sha256": whole.hexdigest()})


def parse(content: bytes) -> Archive:
    """The archive in a file. Raises BackupUnreadable for one that is cut off, was changed, or is of another form."""
    *lines, last = content.splitlines(keepends=True) or [b""]
    header = _object(lines[0] if lines else last)
    version = header.get("portway_backup")
    if version is None:
        raise BackupUnreadable("this is no back-up of a Portway registry")
    if version != VERSION:
        raise BackupUnreadable(
            f"the back-up has form {version!r}, this program reads {VERSION}: use the release that made it "
            f"({header.get('by')!r})"
        )
    end = _object(last)
    if "sha256" not in end:
        raise BackupUnreadable("the back-up is cut off: its last line is missing")
    if end["sha256"] != hashlib.sha256(b"".join(lines)).hexdigest():
        raise BackupUnreadable("the back-up was changed: its bytes are not those that were written")
    try:
        cluster, made, by = str(header["cluster"]), int(header["made_at_ms"]), str(header["by"])
        records = tuple(_record(_object(line)) for line in lines[1:])
    except (KeyError, ValueError, TypeError) as error:
        raise BackupUnreadable(f"the back-up has a line that is no record: {error!r}") from error
    if end.get("records") != len(records):
        raise BackupUnreadable(f"the back-up has {len(records)} records and says {end.get('records')}")
    return Archive(cluster, made, by, records)


def _told(record: Record) -> dict[str, object]:
    try:
        return {"key": record.key, "text": record.value.decode("utf-8")}
    except UnicodeDecodeError:
        return {"key": record.key, "base64": base64.b64encode(record.value).decode("ascii")}


def _record(told: Mapping[str, Any]) -> Record:
    if "text" in told:
        return Record(str(told["key"]), str(told["text"]).encode("utf-8"))
    return Record(str(told["key"]), base64.b64decode(told["base64"], validate=True))


def _line(told: Mapping[str, object]) -> bytes:
    return json.dumps(told, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
