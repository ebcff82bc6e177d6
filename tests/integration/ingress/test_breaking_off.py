"""Visitors that stall or break off, wherever they are, and what the next one finds of them: nothing."""

import contextlib
import hashlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import portway
import pytest
from portway_testkit.clusters.cluster import LOOPBACK, Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors import hellos
from portway_testkit.visitors.origins import HttpOrigin, TcpOrigin, digest_of, generated, marked
from portway_testkit.visitors.visiting import TIMEOUT, ask, visit, visit_raw
from portway_testkit.waiting import eventually

pytestmark = [
    pytest.mark.shares_sockets,
    pytest.mark.parametrize("cluster", ["embedded", "etcd"], indirect=True, scope="module"),
]

LARGE = 160 << 20
# What is held for a visitor that does not read: the buffers of three connections, which Linux lets grow to 6 or 32 MiB
# on the receiving and 4 MiB on the sending side, and little in the two processes between them.
HELD = 120 << 20


def break_off(sock: socket.socket) -> None:
    """End with a reset, whatever is unread or unsent."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def request(path: str, method: str = "GET", body: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def answer_body(sock: socket.socket, size: int) -> Iterator[bytes]:
    """The body of the answer that comes, of `size` bytes, in pieces. Fails when it is not whole."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = sock.recv(4_096)
        assert piece, "it ended in its head"
        head += piece
    head, _, first = head.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    left = size - len(first)
    yield first
    while left:
        piece = sock.recv(min(left, 256 * 1024))
        assert piece, f"it ended {left} bytes early"
        left -= len(piece)
        yield piece


def digest(pieces: Iterator[bytes]) -> str:
    hashed = hashlib.sha256()
    for piece in pieces:
        hashed.update(piece)
    return hashed.hexdigest()


@pytest.mark.timeout(240)  # half a gigabyte through TLS, all of it in this process
def test_one_stops_reading_and_another_does_not_notice(
    cluster: Cluster, tunnel: portway.Tunnel, origin: HttpOrigin
) -> None:
    """While one visitor does not read its large answer another one has all of it; little is held for the first, which
    then reads on and has every byte."""
    with visit(tunnel, cluster.ca) as stalled, visit(tunnel, cluster.ca) as reading:
        stalled.sendall(request(f"/bytes/{LARGE}"))
        eventually(lambda: origin.sent)
        for _ in range(2):
            reading.sendall(request(f"/bytes/{LARGE}"))
            assert digest(answer_body(reading, LARGE)) == digest_of(LARGE)
        assert origin.sent - 2 * LARGE < HELD
        assert digest(answer_body(stalled, LARGE)) == digest_of(LARGE)


def test_a_server_that_stops_reading_holds_up_its_own_visitor_alone(cluster: Cluster, as_client: AsClient) -> None:
    """A visitor whose server does not read can send as much as buffers hold; another one is served meanwhile, and what
    was held arrives whole once the server reads."""
    as_client(cluster.environment())
    reads_on = threading.Event()
    received: list[str] = []

    def serve(sock: socket.socket) -> None:
        if sock.recv(1) == b"s":
            reads_on.wait(TIMEOUT)
        received.append(digest(iter(lambda: sock.recv(256 * 1024), b"")))

    with TcpOrigin(serve) as server, portway.forward(server.port, unencrypted=True) as tunnel:
        with visit_raw(tunnel) as stalled, visit_raw(tunnel) as other:
            stalled.sendall(b"s")
            stalled.settimeout(1.0)
            sent = hashlib.sha256()
            size = 0
            with contextlib.suppress(TimeoutError):
                for block in generated(LARGE):
                    left = block
                    while left:
                        count = stalled.send(left)
                        sent.update(left[:count])
                        size += count
                        left = left[count:]
            assert size < HELD
            other.sendall(b"o" + b"x" * 1_000_000)
            other.shutdown(socket.SHUT_WR)
            eventually(lambda: received == [hashlib.sha256(b"x" * 1_000_000).hexdigest()])
            reads_on.set()
            stalled.shutdown(socket.SHUT_WR)
            eventually(lambda: received[1:] == [sent.hexdigest()])


def connected(tunnel: portway.Tunnel, cluster: Cluster) -> socket.socket:
    return socket.create_connection((LOOPBACK, tunnel.port), TIMEOUT)


def in_the_hello(tunnel: portway.Tunnel, cluster: Cluster) -> socket.socket:
    sock = connected(tunnel, cluster)
    sock.sendall(hellos.real_hello(tunnel.host)[:100])
    return sock


def in_the_handshake(tunnel: portway.Tunnel, cluster: Cluster) -> socket.socket:
    sock = connected(tunnel, cluster)
    sock.sendall(hellos.real_hello(tunnel.host))
    assert sock.recv(1) == b"\x16"
    return sock


def before_a_word(tunnel: portway.Tunnel, cluster: Cluster) -> socket.socket:
    return visit(tunnel, cluster.ca)


def in_the_request(tunnel: portway.Tunnel, cluster: Cluster) -> socket.socket:
    sock = visit(tunnel, cluster.ca)
    sock.sendall(request("/")[:10])
    return sock


def in_the_upload(tunnel: portway.Tunnel, cluster: Cluster) -> socket.socket:
    sock = visit(tunnel, cluster.ca)
    sock.sendall(request("/digest", "PUT", bytes(3_000_000))[:-1])
    return sock


def in_the_answer(tunnel: portway.Tunnel, cluster: Cluster) -> socket.socket:
    sock = visit(tunnel, cluster.ca)
    sock.sendall(request(f"/bytes/{LARGE}"))
    assert sock.recv(1_000)
    return sock


def between_requests(tunnel: portway.Tunnel, cluster: Cluster) -> socket.socket:
    sock = visit(tunnel, cluster.ca)
    sock.sendall(request("/bytes/1000"))
    assert len(b"".join(answer_body(sock, 1_000))) == 1_000
    return sock


STAGES = [
    connected,
    in_the_hello,
    in_the_handshake,
    before_a_word,
    in_the_request,
    in_the_upload,
    in_the_answer,
    between_requests,
]


@pytest.mark.parametrize("end", [break_off, socket.socket.close], ids=["reset", "end"])
@pytest.mark.parametrize("stage", STAGES)
def test_breaking_off(
    cluster: Cluster,
    tunnel: portway.Tunnel,
    origin: HttpOrigin,
    stage: Callable[[portway.Tunnel, Cluster], socket.socket],
    end: Callable[[socket.socket], None],
) -> None:
    """Wherever visitors break off, their visits end at both sides, the local server is told, and the next visitor is
    served as if they had never come."""
    for _ in range(3):
        end(stage(tunnel, cluster))
        assert ask(tunnel, cluster.ca, "/marked/next/100").endswith(marked("next", 100))
    eventually(lambda: cluster.node.metrics()["visits"] == 0)
    eventually(lambda: origin.open_connections == 0)


def test_breaking_off_while_nobody_reads(cluster: Cluster, as_client: AsClient) -> None:
    """A visitor that is not read, because its server does not read, is seen to be gone all the same, within seconds;
    so is one that did not read itself."""
    as_client(cluster.environment())
    over = threading.Event()
    hung_up = threading.Semaphore(0)

    def serve(sock: socket.socket) -> None:
        if sock.recv(1) == b"r":
            over.wait(TIMEOUT)  # never reads
        else:
            with contextlib.suppress(OSError):
                for block in generated(LARGE):
                    sock.sendall(block)
            hung_up.release()

    with TcpOrigin(serve) as server, portway.forward(server.port) as tunnel:
        unread, reads_not = visit(tunnel, cluster.ca), visit(tunnel, cluster.ca)
        reads_not.sendall(b"w")
        unread.sendall(b"r")
        unread.settimeout(0.5)
        with pytest.raises(TimeoutError):
            unread.sendall(b"".join(generated(LARGE)))
        for visitor in (unread, reads_not):
            break_off(visitor)
        eventually(lambda: cluster.node.metrics()["visits"] == 0)
        assert hung_up.acquire(timeout=TIMEOUT)
        over.set()
        eventually(lambda: server.open_connections == 0)


ROUNDS = 240
LONGEST = 400_000
AT_ONCE = 4
# Eight spare ones and those in use, some let go and dialled again; if broken-off visits cost their lanes it were 120.
LANES = 40


def test_lanes_used_again_carry_nothing_of_the_visit_before(
    cluster: Cluster, as_client: AsClient, origin: HttpOrigin
) -> None:
    """Hundreds of visits over a few lanes, half of them broken off at a random byte of request or answer: each answer
    and each request is marked with its own nonce throughout, and no other ever shows."""
    as_client(cluster.environment())
    chance = random.Random(7)
    plans = [
        (number, chance.randrange(1, 400_000), chance.randrange(1, 400_000), chance.random())
        for number in range(ROUNDS)
    ]

    def converse(plan: tuple[int, int, int, float]) -> bool:
        """Whether it was carried to its end."""
        number, sends, gets, fate = plan
        nonce = f"<{number}>"
        body, expected = marked(nonce, sends), marked(nonce, gets)
        sock = visit_raw(tunnel) if number % 2 else visit(tunnel, cluster.ca)
        message = request(f"/marked/{nonce}/{gets}", "POST", body)
        if fate < 0.25:
            sock.sendall(message[: int(len(message) * fate * 4)])
            break_off(sock)
            return False
        sock.sendall(message)
        received = bytearray()
        for piece in answer_body(sock, gets):
            received += piece
            if fate < 0.5 and len(received) > gets * (fate - 0.25) * 4:
                break
        assert received == expected[: len(received)]
        if fate < 0.5:
            break_off(sock)
            return False
        sock.close()
        return len(received) == gets

    lanes_before = cluster.node.metrics()["lanes_opened_total"]
    with portway.forward(origin.port, unencrypted=True) as tunnel, ThreadPoolExecutor(AT_ONCE) as visitors:
        whole = list(visitors.map(converse, plans))
        assert sum(whole) == sum(fate >= 0.5 for *_, fate in plans)
        eventually(lambda: cluster.node.metrics()["visits"] == 0)
        assert cluster.node.metrics()["lanes_opened_total"] - lanes_before <= LANES
