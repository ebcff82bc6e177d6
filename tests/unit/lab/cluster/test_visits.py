"""Visitors of named tunnels: what is another's is told from what is missing."""

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from portway_lab.cluster.clients import NamedTunnel
from portway_lab.cluster.visits import Ask, NotServed, WrongBytes, answer, ask

MINE = NamedTunnel("mine", "https://mine", "mine", 443, 0.0)
QUESTION = Ask(5_000)


@pytest.fixture
def asked() -> Iterator[Callable[[bytes], None]]:
    """Ask somebody who answers with these bytes and ends the connection."""
    threads: list[threading.Thread] = []

    def run(answered: bytes) -> None:
        visitor, server = socket.socketpair()

        def serve() -> None:
            with server:
                server.recv(65_536)
                server.sendall(answered)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        with visitor:
            connection: Any = visitor
            ask(connection, MINE, QUESTION)

    yield run
    for thread in threads:
        thread.join()


def test_its_own_bytes_are_taken(asked: Callable[[bytes], None]) -> None:
    """The whole answer, head and body."""
    asked(answer("mine", QUESTION.size))


@pytest.mark.parametrize("length", [0, 1, 60, 4_000])
def test_an_answer_that_is_cut_short_is_no_violation(asked: Callable[[bytes], None], length: int) -> None:
    """Nodes die; what came was the tunnel's own."""
    with pytest.raises(NotServed, match="bytes early"):
        asked(answer("mine", QUESTION.size)[:length])


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Service Unavailable"])
def test_a_page_of_the_node_is_no_violation(asked: Callable[[bytes], None], status: str) -> None:
    """It says that nobody was there."""
    with pytest.raises(NotServed, match=status[:3]):
        asked(f"HTTP/1.1 {status}\r\n\r\n".encode())


@pytest.mark.parametrize(
    "other",
    [
        answer("other", QUESTION.size),
        answer("mine", QUESTION.size - 1),
        answer("mine", QUESTION.size)[:1_000] + answer("other", QUESTION.size)[1_000:],
        answer("mine", QUESTION.size)[:-1] + b"?",
        b"HTTP/1.1 404 Not Found\r\n\r\n",
    ],
)
def test_anything_else_is_a_violation(asked: Callable[[bytes], None], other: bytes) -> None:
    """Another tunnel's answer, another request's, a mixture, one wrong byte at the end."""
    with pytest.raises(WrongBytes, match="mine was asked for"):
        asked(other)


def test_every_name_and_size_has_bytes_of_its_own() -> None:
    """No answer begins like another, and an upload's names what was sent."""
    assert Ask(1_000).expected("a")[200:400] != Ask(1_000).expected("b")[200:400]
    assert Ask(1_000).expected("a")[200:400] != Ask(1_001).expected("a")[200:400]
    assert Ask(10, upload=True).expected("a") != Ask(10, upload=True).expected("b")
