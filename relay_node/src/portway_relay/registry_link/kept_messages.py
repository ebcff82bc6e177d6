"""What registries said last, kept in a file, so that a node that starts while none is reached knows its cluster.

Kept are the lists that a registry sends after each registration and that hold until the next one: grant keys,
revocations, nodes, owners of raw ports, DNS records, the operator's order. CAs and certificates have files of their
own. A file counts for a day after the node was last registered: that long grants are honoured, and the revocations in
it name every token whose grants still could be. Here: the file. Not here: what the messages do (message_handler.py).
"""

import asyncio
import hashlib
import logging
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError
from portway_proto.v1.mesh_pb2 import RegistryMessage, Revocations
from portway_runtime.clocks import WallClock
from portway_runtime.secret_files import replace_file

from portway_relay.registry_link.stream import RegistryEvents
from portway_relay.sessions.grants import LEEWAY, OUTAGE_LEEWAY

logger = logging.getLogger(__name__)

# Seconds for which a file counts after the node was registered the last time.
COUNTS_FOR: Final = OUTAGE_LEEWAY
# Seconds between two writes, at least. What changed in them is lost if the process is killed.
_PAUSE: Final = 2.0
# Seconds after which the file is written again, for the time in it.
_REFRESH: Final = 600.0
_LISTS: Final = ("settings", "peers", "port_owners", "dns_records", "order")
_IN_PARTS: Final = frozenset({"peers", "dns_records"})
_MAGIC: Final = b"portway: what registries said, 1\n"
# Then the SHA-256 of what follows: a time (ms since the Unix epoch), and each message behind its length.
_HEAD: Final = len(_MAGIC) + 32
_TIME: Final = struct.Struct("!Q")
_LENGTH: Final = struct.Struct("!I")
# Bytes: ten times the lists of 2,000 nodes.
_LARGEST: Final = 64 << 20
# Ids of revoked tokens in one message, as registries send them.
_TOKENS_A_MESSAGE: Final = 20_000


class KeptMessages:
    """The RegistryEvents that keep what passes through them to `events`."""

    def __init__(
        self, events: RegistryEvents, path: Path | None, wall_clock: WallClock, *, pause: float = _PAUSE
    ) -> None:
        """path: the file; None keeps nothing. pause: seconds between two writes, at least."""
        self._events = events
        self._path = path
        self._wall_clock = wall_clock
        self._pause = pause
        self._lists: dict[str, list[RegistryMessage]] = {}  # whole ones, by kind
        self._coming: dict[str, list[RegistryMessage]] = {}  # lists whose last part is not there yet
        self._revoked: dict[str, None] = {}  # as this registration's registry said
        self._revoked_before: dict[str, None] = {}
        self._registered = False
        self._said_at = 0.0  # when the node was registered the last time
        self._changed = asyncio.Event()
        self._logged = False  # that the file cannot be written

    def received(self, message: RegistryMessage) -> None:
        """A message came."""
        self._keep(message)
        self._events.received(message)

    def registry_away(self, away: bool) -> None:
        """No registry has this node registered any more, or one has again."""
        self._registered = not away
        self._said_at = self._wall_clock()
        if away:
            self._changed.set()
        else:
            self._revoked_before |= self._revoked
            self._revoked = {}
        self._events.registry_away(away)

    def removed(self, reason: str) -> None:
        """The cluster admits this node no more, and what was kept is of no use."""
        self._lists.clear()
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        self._events.removed(reason)

    def stored(self) -> Sequence[RegistryMessage]:
        """What the last run kept, in the order in which a registry says it; nothing if it is over, damaged or another
        user's to write. It is kept on until a registry says otherwise."""
        if self._path is None:
            return ()
        try:
            said_at, messages = _read(self._path)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, DecodeError, struct.error) as error:
            logger.warning(
                "what registries said before is not used", extra={"file": str(self._path), "reason": str(error)}
            )
            return ()
        age = self._wall_clock() - said_at
        if not -LEEWAY <= age <= COUNTS_FOR:
            logger.info("what registries said before is too old", extra={"hours": round(age / 3600)})
            return ()
        for message in messages:
            self._keep(message)
        self._said_at = said_at
        self._changed.clear()
        return messages

    async def keep_writing(self) -> None:
        """Write the file when something has changed, and for the time in it, until cancelled."""
        while self._path is not None:
            try:
                async with asyncio.timeout(_REFRESH):
                    await self._changed.wait()
            except TimeoutError:
                if not self._registered:
                    continue
            await asyncio.sleep(self._pause)
            self.write()

    def write(self) -> None:
        """Write the file, with the time that it is now if the node is registered. A node that was never registered, or
        is in the cluster no more, writes nothing."""
        self._changed.clear()
        if self._path is None or "settings" not in self._lists:
            return
        if self._registered:
            self._said_at = self._wall_clock()
        body = _TIME.pack(int(self._said_at * 1000)) + b"".join(map(_framed, self._messages()))
        try:
            # Not flushed to disk: a file that a crash of the machine damages is known by its digest.
            replace_file(self._path, _MAGIC + hashlib.sha256(body).digest() + body, durable=False)
            self._logged = False
        except OSError as error:
            if not self._logged:
                self._logged = True
                logger.error(
                    "what registries say is not stored, so that a restart needs a registry",
                    extra={"file": str(self._path), "reason": error.strerror or str(error)},
                )

    def _keep(self, message: RegistryMessage) -> None:
        """Remember a message that holds until the next one of its kind."""
        kind = message.WhichOneof("message") or ""
        if kind == "revocations":
            self._revoked |= dict.fromkeys(message.revocations.token_ids)
        elif kind in _IN_PARTS:
            part = getattr(message, kind)
            parts = self._coming.setdefault(kind, [])
            if part.part == 0:
                parts.clear()
            parts.append(message)
            if part.more:
                return
            self._lists[kind] = self._coming.pop(kind)
            if kind == "peers":
                # Registries send all revocations that count before the nodes.
                self._revoked_before.clear()
        elif kind in _LISTS:
            self._lists[kind] = [_without_authorities(message) if kind == "settings" else message]
        else:
            return
        self._changed.set()

    def _messages(self) -> Iterator[RegistryMessage]:
        """All that is kept: revocations come before anything that makes clients or nodes welcome."""
        revoked = list(self._revoked_before | self._revoked)
        for start in range(0, len(revoked), _TOKENS_A_MESSAGE):
            yield RegistryMessage(revocations=Revocations(token_ids=revoked[start : start + _TOKENS_A_MESSAGE]))
        for kind in _LISTS:
            yield from self._lists.get(kind, ())


def _without_authorities(message: RegistryMessage) -> RegistryMessage:
    """The settings without CAs, which have a file that may be newer."""
    kept = RegistryMessage()
    kept.CopyFrom(message)
    kept.settings.ClearField("cluster_ca")
    kept.settings.ClearField("issuer")
    return kept


def _framed(message: RegistryMessage) -> bytes:
    encoded = message.SerializeToString()
    return _LENGTH.pack(len(encoded)) + encoded


def _read(path: Path) -> tuple[float, list[RegistryMessage]]:
    """When the node was last registered, and the messages. Raises OSError, ValueError, struct.error and DecodeError."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid not in (os.geteuid(), 0) or stat.S_IMODE(status.st_mode) & 0o022:
            raise ValueError("other users can write it")
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError("it is too long")
    body = content[_HEAD:]
    if content[:_HEAD] != _MAGIC + hashlib.sha256(body).digest():
        raise ValueError("it is damaged, or of another release")
    (said_ms,) = _TIME.unpack_from(body)
    return said_ms / 1000, list(_messages_in(body[_TIME.size :]))


def _messages_in(data: bytes) -> Iterable[RegistryMessage]:
    at = 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        yield RegistryMessage.FromString(data[at : at + length])
        at += length
