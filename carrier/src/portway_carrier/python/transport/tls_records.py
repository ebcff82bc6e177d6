"""Counting TLS records by their headers, without decrypting them.

OpenSSL answers a KeyUpdate, an alert or a request to renegotiate by itself and reports none of them. Whoever counts
records, and those that brought data, knows how many brought none.
"""

from portway_proto.wire.frames import Bytes


class RecordCounter:
    """The records of one direction of one connection."""

    __slots__ = ("_at", "_high")

    def __init__(self) -> None:
        self._at = 4  # where the next header's last byte is, from the beginning of the next piece
        self._high = 0  # the byte before it, when it is in the piece before

    def count(self, piece: Bytes, most: int) -> int | None:
        """The number of headers that end in `piece`, the next bytes of the connection. None, with nothing counted, when
        there are more than `most`."""
        at, high, size, found = self._at, self._high, len(piece), 0
        while at < size:
            if at:
                high = piece[at - 1]
            at += 5 + (high << 8 | piece[at])  # type, version and length of a header: 5 bytes
            found += 1
            if found > most:
                return None
        if at == size and size:
            self._high = piece[-1]
        self._at = at - size
        return found
