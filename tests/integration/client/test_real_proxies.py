"""tinyproxy, which no one here wrote; and a machine from which nothing but a proxy can be reached."""

import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import portway
import pytest
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.links.connect_proxy import ConnectProxy
from portway_testkit.processes.ports import free_port
from portway_testkit.processes.running_program import RunningProgram, needed
from portway_testkit.waiting import PATIENCE, eventually

pytestmark = pytest.mark.shares_sockets

_PROGRAM = """
import sys
import portway

with portway.forward(int(sys.argv[1])) as tunnel:
    print(tunnel.host, flush=True)
    sys.stdin.read()
"""
_TCP, _IPV4 = 6, 0x0800


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@contextmanager
def tinyproxy(folder: Path, *settings: str) -> Iterator[int]:
    """Runs it with these lines in its file; its port."""
    port = free_port()
    file = folder / "tinyproxy.conf"
    file.write_text("\n".join([f"Port {port}", "Listen 127.0.0.1", "MaxClients 100", "Timeout 600", *settings, ""]))
    with RunningProgram([needed("tinyproxy"), "-d", "-c", str(file)], os.environ, folder / "tinyproxy.log"):
        eventually(lambda: listens(port))
        yield port


def test_tinyproxy_with_a_login(
    environment: dict[str, str], node: FakeNode, echo: Any, exchange: Any, tmp_path: Path, time_is_up_at: Any
) -> None:
    """Right, missing and wrong."""
    with tinyproxy(tmp_path, "BasicAuth me s3cret") as port:
        with portway.forward(echo.port, proxy=f"http://me:s3cret@127.0.0.1:{port}") as tunnel:
            assert exchange(node, tunnel.host, b"hello" * 300_000) == b"hello" * 300_000
        for login, words, code in (("", "wants a login", "(407)"), ("me:wrong@", "does not accept", "(401)")):
            time_is_up_at(words, code)
            with pytest.raises(portway.UnreachableError, match=rf"{words}.* {re.escape(code)}"):
                with portway.forward(echo.port, proxy=f"http://{login}127.0.0.1:{port}", timeout=PATIENCE):
                    pass


def test_tinyproxy_that_forbids_the_port(
    environment: dict[str, str], registry: FakeRegistry, tmp_path: Path, time_is_up_at: Any
) -> None:
    time_is_up_at("does not let connections to")
    with tinyproxy(tmp_path, "ConnectPort 443") as port:
        with pytest.raises(portway.UnreachableError, match=rf"does not let connections to {registry.address} through"):
            with portway.forward(8000, proxy=f"http://127.0.0.1:{port}", timeout=PATIENCE):
                pass


def test_tinyproxy_that_cannot_reach_the_registry(
    environment: dict[str, str], registry: FakeRegistry, tmp_path: Path, time_is_up_at: Any
) -> None:
    registry.stop()
    time_is_up_at(f"{registry.address} (50")
    with tinyproxy(tmp_path) as port:
        with pytest.raises(portway.UnreachableError, match=rf"(cannot reach|connect to) {registry.address} \(50"):
            with portway.forward(8000, proxy=f"http://127.0.0.1:{port}", timeout=PATIENCE):
                pass


class Machine:
    """A network namespace with one cable, to this machine: no route leads further. `outside` and `inside` are its ends'
    addresses."""

    outside, inside = "10.213.72.1", "10.213.72.2"

    def __init__(self) -> None:
        self.name = f"pwproxy{os.getpid()}"
        self._cable = f"pwp{os.getpid()}"
        self.sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # nothing before it is bound
        self.sniffer.setblocking(False)

    def __enter__(self) -> "Machine":
        _ip(f"netns add {self.name}")
        _ip(f"link add {self._cable} type veth peer name cable netns {self.name}")
        _ip(f"addr add {self.outside}/30 dev {self._cable}")
        _ip(f"link set {self._cable} up")
        _ip(f"-n {self.name} addr add {self.inside}/30 dev cable")
        _ip(f"-n {self.name} link set cable up")
        _ip(f"-n {self.name} link set lo up")
        self.sniffer.bind((self._cable, _IPV4))
        return self

    def __exit__(self, *_: object) -> None:
        self.sniffer.close()
        _ip(f"netns del {self.name}")

    def sent(self) -> set[tuple[str, int, int]]:
        """Destination, protocol and port of every IPv4 packet that it has sent since the last call."""
        found: set[tuple[str, int, int]] = set()
        while True:
            try:
                frame = self.sniffer.recv(65_536)
            except BlockingIOError:
                return found
            packet = frame[14:]
            if socket.inet_ntoa(packet[12:16]) == self.inside:
                start = (packet[0] & 15) * 4
                (port,) = struct.unpack_from("!H", packet, start + 2)
                found.add((socket.inet_ntoa(packet[16:20]), packet[9], port))


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, capture_output=True)


@pytest.fixture
def machine() -> Iterator[Machine]:
    if os.geteuid() or sys.platform != "linux" or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux, root and iproute2")
    with Machine() as machine:
        yield machine


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_nothing_goes_past_the_proxy(
    environment: dict[str, str],
    registry: FakeRegistry,
    node: FakeNode,
    exchange: Any,
    machine: Machine,
    start_program: Callable[..., "subprocess.Popen[str]"],
    loop: str,
) -> None:
    """Look-ups included: every packet that the machine sends is for the proxy."""
    registry.node_host = "node.test"
    with ExitStack() as stack:
        proxy = stack.enter_context(ConnectProxy(host=machine.outside))
        proxy.hosts = {"registry.test": "127.0.0.1", "node.test": "127.0.0.1"}
        variables = environment | {
            "PORTWAY_REGISTRY": f"registry.test:{registry.port}",
            "https_proxy": f"http://{machine.outside}:{proxy.port}",
        }
        text = ("import sys\nsys.modules['uvloop'] = None\n" if loop == "asyncio" else "") + _SERVED + _PROGRAM
        command = ["ip", "netns", "exec", machine.name, sys.executable, "-c", text, "0"]
        program = stack.enter_context(
            subprocess.Popen(
                command,
                env={**os.environ, **variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(program.kill)
        assert program.stdout is not None
        host = program.stdout.readline().strip()
        assert host, program.communicate()[1]
        assert exchange(node, host, b"hello") == b"hello"
        program.communicate("", timeout=PATIENCE)
        assert {asked.partition(":")[0] for asked in proxy.asked} == {"registry.test", "node.test"}
        assert machine.sent() == {(machine.outside, _TCP, proxy.port)}


# A server that sends back what it gets; its port takes the place of the argument.
_SERVED = """
import socket, sys, threading

def serve(listener):
    while True:
        threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()

def echo(sock):
    while data := sock.recv(65536):
        sock.sendall(data)
    sock.close()

listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(listener,), daemon=True).start()
sys.argv[1] = str(listener.getsockname()[1])
"""
