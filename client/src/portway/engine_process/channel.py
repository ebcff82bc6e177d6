"""Channel: messages between a program and the process of its engine, over a pair of connected sockets.

A message is an object of JSON after its length in 4 bytes. Nothing of it is code. Not here: what messages say
(messages.py).
"""

import _socket
import json
import struct
from typing import Any, Final

Message = dict[str, Any]

_LENGTH: Final = struct.Struct("!I")
_TIME: Final = struct.Struct("@ll")  # struct timeval
# Bytes. A request holds a bundle of CAs at most; what is longer is no message.
MAX_MESSAGE: Final = 64 * 1024 * 1024
# Seconds. A child reads at all times: one that takes nothing for as long is stopped or stuck.
SEND_TIMEOUT: Final = 10


class Channel:
    """One end. One thread at a time sends, and one receives. The sockets are not those that gevent or eventlet puts in
    the standard library's place."""

    def __init__(self, descriptor: int, send_timeout: int = SEND_TIMEOUT) -> None:
        """Owns the descriptor of a connected stream socket. `send_timeout`: seconds; 0 is for ever."""
        self._socket = _socket.socket(fileno=descriptor)
        self._socket.setblocking(True)  # whatever socket.setdefaulttimeout says
        self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, _TIME.pack(send_timeout, 0))

    def send(self, message: Message) -> None:
        """Raises OSError when the other side has gone, or reads nothing; then the channel is of no use any more."""
        content = json.dumps(message).encode()
        self._socket.sendall(_LENGTH.pack(len(content)) + content)

    def receive(self) -> Message | None:
        """Block until a message has come; None when the other side has gone. Raises TimeoutError (`set_patience`)."""
        head = self._read(_LENGTH.size)
        if head is None:
            return None
        (length,) = _LENGTH.unpack(head)
        content = self._read(length) if length <= MAX_MESSAGE else None
        if content is None:
            return None
        message: Message = json.loads(content)
        return message

    def set_patience(self, seconds: int) -> None:
        """How long `receive` waits for the next bytes; 0 is for ever."""
        self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, _TIME.pack(seconds, 0))

    def end(self) -> None:
        """Send nothing more: the other side sees the end. What it sends is still received."""
        try:
            self._socket.shutdown(_socket.SHUT_WR)
        except OSError:
            pass  # it has gone

    def close(self) -> None:
        """Close this process's descriptor; can be called again."""
        self._socket.close()

    def _read(self, length: int) -> bytes | None:
        pieces = []
        while length:
            try:
                piece = self._socket.recv(min(length, 1 << 20))
            except BlockingIOError:
                raise TimeoutError from None
            except OSError:
                return None
            if not piece:
                return None
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)
