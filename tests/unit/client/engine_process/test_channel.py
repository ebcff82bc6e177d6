"""portway.engine_process.channel: messages over a pair of sockets, whole or not at all."""

import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from portway.engine_process.channel import MAX_MESSAGE, Channel


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel, and the socket at its other end."""
    mine, theirs = socket.socketpair()
    channel = Channel(mine.detach())
    theirs.settimeout(30)
    yield channel, theirs
    channel.close()
    theirs.close()


def test_messages_arrive_as_they_were_sent(pair: tuple[Channel, socket.socket]) -> None:
    """In order; large ones and names that are no Unicode too, in pieces of any size."""
    channel, theirs = pair
    messages: list[dict[str, object]] = [{"open": 1, "key": "/tmp/\udcff", "text": "…"}, {}, {"large": "x" * 3_000_000}]
    sender = Channel(theirs.detach())

    def send() -> None:
        for one in messages:
            sender.send(one)

    thread = threading.Thread(target=send)
    thread.start()
    assert [channel.receive() for _ in messages] == messages
    thread.join()
    sender.end()
    assert channel.receive() is None
    channel.send({"still": True})
    assert sender.receive() == {"still": True}
    sender.close()


@pytest.mark.parametrize("piece", [b"", b"\0\0", b"\0\0\0\x05{}", struct.pack("!I", MAX_MESSAGE + 1) + b"x"])
def test_an_end_in_the_middle_is_an_end(pair: tuple[Channel, socket.socket], piece: bytes) -> None:
    """And so is what cannot be a message."""
    channel, theirs = pair
    theirs.sendall(piece)
    theirs.shutdown(socket.SHUT_WR)
    assert channel.receive() is None


def test_patience_ends(pair: tuple[Channel, socket.socket]) -> None:
    """Whatever the program's default timeout for sockets says."""
    channel, theirs = pair
    channel.set_patience(1)
    with pytest.raises(TimeoutError):
        channel.receive()
    channel.set_patience(0)
    theirs.sendall(b"\0\0\0\x02{}")
    assert channel.receive() == {}


def test_a_default_timeout_changes_nothing() -> None:
    """A program's own, which new sockets take over."""
    socket.setdefaulttimeout(0.001)
    try:
        mine, theirs = socket.socketpair()
        channel, other = Channel(mine.detach()), Channel(theirs.detach())
    finally:
        socket.setdefaulttimeout(None)
    receiver = threading.Timer(0.05, lambda: other.send({}))
    receiver.start()
    assert channel.receive() == {}
    receiver.join()
    channel.close()
    other.close()


def test_a_side_that_reads_nothing_is_an_error() -> None:
    """After a time: a stopped process must not stop this one."""
    mine, theirs = socket.socketpair()
    channel = Channel(mine.detach(), send_timeout=1)
    with theirs, pytest.raises(OSError):
        channel.send({"large": "x" * 10_000_000})
    with pytest.raises(OSError):
        channel.send({})
    channel.end()
    channel.close()
