"""forward(port, unencrypted=True): a TCP port without TLS, beside the TLS address of the same tunnel."""

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import portway
import pytest
from portway.engine import engine_thread as thread
from portway_lab.cluster.portway import Cluster, NodePlan, start_cluster
from portway_lab.cluster.processes import Processes
from portway_testkit.links.link import Link
from portway_testkit.processes.ports import LOOPBACK, free_port
from portway_testkit.processes.running_program import RunningProgram, needed
from portway_testkit.visitors.origins import TcpOrigin
from portway_testkit.visitors.visiting import receive, visit, visit_raw
from portway_testkit.waiting import eventually

GREETING = b"220 this server speaks first\r\n"
LARGE = os.urandom(5_000_000)  # more than every buffer on the way holds
PATIENCE = 20.0

pytestmark = pytest.mark.timeout(180)


def answer_when_all_is_there(connection: socket.socket) -> None:
    """A server that says nothing before its visitor has finished: it must see the end of what is sent."""
    connection.sendall(reply_to(receive(connection)))


def reply_to(message: bytes) -> bytes:
    return hashlib.sha256(message).hexdigest().encode() + b"\n" + message[::-1]


def greet_and_echo(connection: socket.socket) -> None:
    connection.sendall(GREETING)
    while piece := connection.recv(65_536):
        connection.sendall(piece)


def receive_exactly(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size and (piece := connection.recv(size - len(received))):
        received += piece
    return bytes(received)


def half_close(tunnel: portway.Tunnel, message: bytes) -> bytes:
    """What a visitor of the raw port is answered that sends, ends its direction, and only then reads."""
    with visit_raw(tunnel) as connection:
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        return receive(connection)


def is_refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.usefixtures("client_environment")
@pytest.mark.parametrize("message", [b"", b"one line\n", LARGE], ids=["nothing", "a line", "5 MB"])
def test_a_visitor_half_closes_and_reads_the_whole_reply(message: bytes) -> None:
    """The end of what a visitor sends reaches the server, whose reply comes back whole after it."""
    with TcpOrigin(answer_when_all_is_there) as origin, portway.forward(origin.port, unencrypted=True) as tunnel:
        assert half_close(tunnel, message) == reply_to(message)
        assert half_close(tunnel, message[1:]) == reply_to(message[1:])


@pytest.mark.usefixtures("client_environment")
def test_netcat_half_closes_and_reads_the_whole_reply() -> None:
    """`nc -N` ends its direction at the end of its input, prints the whole reply and ends."""
    with TcpOrigin(answer_when_all_is_there) as origin, portway.forward(origin.port, unencrypted=True) as tunnel:
        host, public_port = tunnel.tcp_socket
        command = [needed("nc"), "-N", host, str(public_port)]
        done = subprocess.run(command, input=LARGE, capture_output=True, timeout=PATIENCE, check=True)
    assert done.stdout == reply_to(LARGE)


@pytest.mark.usefixtures("client_environment")
def test_a_server_that_ends_first_still_hears_its_visitor() -> None:
    """The server's direction ends before the visitor has said anything; what the visitor sends then arrives whole."""
    heard: list[bytes] = []

    def greet_and_listen(connection: socket.socket) -> None:
        connection.sendall(GREETING)
        connection.shutdown(socket.SHUT_WR)
        heard.append(receive(connection))

    with TcpOrigin(greet_and_listen) as origin, portway.forward(origin.port, unencrypted=True) as tunnel:
        with visit_raw(tunnel) as connection:
            assert receive(connection) == GREETING
            connection.sendall(LARGE)
        eventually(lambda: bool(heard))
    assert heard == [LARGE]


@pytest.mark.usefixtures("client_environment")
def test_one_tunnel_has_both_addresses(cluster: Cluster) -> None:
    """The raw port and the TLS address lead to the same server at the same time, each on a port of its own."""
    with TcpOrigin(greet_and_echo) as origin, portway.forward(origin.port, unencrypted=True) as tunnel:
        assert tunnel.tcp_socket == (tunnel.unencrypted_host, tunnel.unencrypted_port)
        assert len({origin.port, tunnel.port, tunnel.unencrypted_port}) == 3
        with visit(tunnel, cluster.ca) as encrypted, visit_raw(tunnel) as raw:
            for connection, message in ((encrypted, b"through TLS"), (raw, b"without TLS")):
                connection.sendall(message)
                assert receive_exactly(connection, len(GREETING + message)) == GREETING + message


@pytest.mark.usefixtures("client_environment")
def test_a_server_may_speak_first(cluster: Cluster) -> None:
    """A visitor that waits for a greeting gets it, at the raw port and behind TLS, before it has sent a byte."""
    with TcpOrigin(greet_and_echo) as origin, portway.forward(origin.port, unencrypted=True) as tunnel:
        with visit_raw(tunnel) as raw:
            assert receive_exactly(raw, len(GREETING)) == GREETING
        with visit(tunnel, cluster.ca) as encrypted:
            assert receive_exactly(encrypted, len(GREETING)) == GREETING


@pytest.mark.usefixtures("client_environment")
def test_the_raw_port_is_let_go_after_the_block() -> None:
    """After the block nobody listens on the port; the next tunnel gets another, for visitors may still hold this."""
    with TcpOrigin(greet_and_echo) as origin:
        with portway.forward(origin.port, unencrypted=True) as tunnel:
            assert not is_refused(tunnel.tcp_socket)
        eventually(lambda: is_refused(tunnel.tcp_socket))
        with portway.forward(origin.port, unencrypted=True) as another:
            assert another.tcp_socket != tunnel.tcp_socket
            assert is_refused(tunnel.tcp_socket)


@pytest.mark.usefixtures("client_environment")
def test_a_tunnel_has_no_raw_port_unless_asked_for(cluster: Cluster) -> None:
    """Without unencrypted=True there is no port, and asking for it says how to get one."""
    with TcpOrigin(greet_and_echo) as origin, portway.forward(origin.port) as tunnel:
        assert (tunnel.unencrypted_host, tunnel.unencrypted_port) == ("", 0)
        with pytest.raises(portway.InvalidError, match="unencrypted=True"):
            _ = tunnel.tcp_socket


def test_visitors_are_refused_once_the_client_was_killed(client_environment: dict[str, str], tmp_path: Path) -> None:
    """A client that is killed takes its visitors and its port with it at once, and nobody hangs on them."""
    with TcpOrigin(greet_and_echo) as origin:
        command = [sys.executable, "-m", "portway", "forward", "--unencrypted", str(origin.port)]
        with RunningProgram(command, client_environment, tmp_path / "client.log") as client:
            assert client.line().startswith("https://")
            host, _, public_port = client.line().removeprefix("tcp://").rpartition(":")
            with socket.create_connection((host, int(public_port)), PATIENCE) as visitor:
                assert receive_exactly(visitor, len(GREETING)) == GREETING
                assert client.stop(signal.SIGKILL) == -signal.SIGKILL
                with contextlib.suppress(ConnectionResetError):
                    assert visitor.recv(1) == b""
            eventually(lambda: is_refused((host, int(public_port))))


async def test_the_raw_port_comes_back_with_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the client is cut off its raw port refuses visitors; once it is back, it is the same port again."""
    node_port = free_port()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pw-"))
        processes = stack.enter_context(Processes(Path(folder)))
        origin = stack.enter_context(TcpOrigin(greet_and_echo))
        async with Link(node_port) as link:
            flags = ("--advertise", f"{LOOPBACK}:{link.port}")
            plan = NodePlan("fra-1", "fra", 50.1, 8.7, port=node_port, flags=flags)
            cluster = await asyncio.to_thread(start_cluster, processes, (plan,))
            for name, value in cluster.exports.items():
                monkeypatch.setenv(name, value)
            stack.callback(thread.stop_engine)
            async with portway.forward(origin.port, unencrypted=True) as tunnel:
                with await asyncio.to_thread(visit_raw, tunnel) as visitor:
                    assert await asyncio.to_thread(receive_exactly, visitor, len(GREETING)) == GREETING
                    link.cut(refuse=True)
                    with contextlib.suppress(ConnectionResetError):
                        assert await asyncio.to_thread(visitor.recv, 1) == b""
                await asyncio.to_thread(eventually, lambda: is_refused(tunnel.tcp_socket))
                link.mend()
                await asyncio.to_thread(eventually, lambda: not is_refused(tunnel.tcp_socket))
                with await asyncio.to_thread(visit_raw, tunnel) as visitor:
                    assert await asyncio.to_thread(receive_exactly, visitor, len(GREETING)) == GREETING
            await asyncio.to_thread(thread.stop_engine)
