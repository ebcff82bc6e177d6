"""A bounded storm, in which everything that logs does so: each line of a server is a line of its log.

The parts are the programs; etcd has three members, of which some or all stop; registries and nodes are killed, stopped
and started; visitors and strangers break their connections off; a program ends by SIGABRT.
"""

import json
import os
import signal
import socket
import ssl
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from portway_lab.cluster.portway import Cluster, NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Process, Processes, Restartable
from portway_testkit.clusters.etcd import EtcdTrio
from portway_testkit.own_time import OwnTime
from portway_testkit.waiting import eventually

# With what systemd adds for a service: without it, last words come as they are wherever the tests run in a container.
_JSON = {
    "PORTWAY_RELAY_LOG_FORMAT": "json",
    "PORTWAY_REGISTRY_LOG_FORMAT": "json",
    "INVOCATION_ID": "0123456789abcdef0123456789abcdef",
}
_NODES = (NodePlan("fra-1", "fra", 50, 8), NodePlan("iad-1", "iad", 39, -77, host="127.0.0.2"))
_OUTAGE = 4.0  # seconds: what is tried again meanwhile is logged again
# A whole TLS record with a handshake message that no release knows.
_BROKEN_HELLO = b"\x16\x03\x01\x00\x08\xfe\x00\x00\x04hell"
_FIRST_BYTES = (_BROKEN_HELLO, b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 1.2.3.4 x\r\n", os.urandom(300))
_RESET = struct.pack("ii", 1, 0)
_KEYS = ("time", "level", "logger", "event")


class JsonProcesses(Processes):
    """Programs that log JSON."""

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        ready_flag: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        return super().start(name, command, ready_flag=ready_flag, environment={**_JSON, **(environment or {})})


class Crowd:
    """Threads that do something again and again until the storm is over; failures of the network are none of it."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def add(self, visit: Callable[[int], None]) -> None:
        def run() -> None:
            number = 0
            while not self._over.wait(0.01):
                number += 1
                with suppress(OSError, ValueError):
                    visit(number)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def stranger(ports: Callable[[], list[str]]) -> Callable[[int], None]:
    """Connects somewhere, says something that is no TLS, and resets the connection."""

    def visit(number: int) -> None:
        for port in ports():
            with socket.create_connection(address(port), 1) as sock:
                sock.settimeout(0.5)
                sock.sendall(_FIRST_BYTES[number % len(_FIRST_BYTES)])
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                if number % 2:
                    sock.recv(100)

    return visit


def visitor(cluster: Cluster, host: str, raw: tuple[str, int]) -> Callable[[int], None]:
    """Asks a tunnel for much, at its home or elsewhere, over TLS or not, and leaves with a reset before it has come."""
    context = ssl.create_default_context(cafile=cluster.ca)

    def visit(number: int) -> None:
        at = raw if number % 3 == 0 else address(cluster.nodes[number % 2].listen)
        with ExitStack() as stack:
            sock = stack.enter_context(socket.create_connection(at, 2))
            if at != raw:
                sock = stack.enter_context(context.wrap_socket(sock, server_hostname=host))
            sock.settimeout(2)
            sock.sendall(b"much\n")
            sock.recv(1000)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    return visit


@pytest.fixture
def origin() -> Iterator[int]:
    """The port of a server that sends much, and resets every third connection in the middle."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer(sock: socket.socket, number: int) -> None:
        with sock, suppress(OSError):
            sock.recv(100)
            for _ in range(40):
                sock.sendall(bytes(100_000))
                if number % 3 == 0:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    return

    def serve() -> None:
        number = 0
        with suppress(OSError):
            while True:
                number += 1
                threading.Thread(target=answer, args=(listening.accept()[0], number), daemon=True).start()

    thread = threading.Thread(target=serve)
    thread.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


def wait_for_outage(own_time: OwnTime) -> None:
    """In a pause of the machine nobody tries anything."""
    began = own_time()
    eventually(lambda: own_time() - began > _OUTAGE)


def lines_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The log lines of each server. Fails on a line that is none."""
    logs: dict[str, list[dict[str, Any]]] = {}
    wrong = []
    for log in sorted((*folder.glob("registry*.log"), *folder.glob("relay*.log"))):
        logs[log.stem] = []
        for line in log.read_text(errors="replace").splitlines():
            try:
                read = json.loads(line)
                assert isinstance(read, dict)
                assert all(isinstance(read.get(key), str) for key in _KEYS)
            except (ValueError, AssertionError):
                wrong.append(f"{log.stem}: {line}")
            else:
                logs[log.stem].append(read)
    assert not wrong, "\n".join(wrong)
    return logs


@pytest.mark.slow  # half a minute of faults, and the starts between them
@pytest.mark.timeout(240)
def test_every_line_of_a_storm_is_a_line_of_the_log(tmp_path: Path, origin: int, own_time: OwnTime) -> None:
    """Parsed as JSON, with the four keys that every line has. A fact that repeats within a minute is one line, with its
    number in the next; nothing is logged by asyncio itself, which would be a fault of ours."""
    with EtcdTrio() as trio, JsonProcesses(tmp_path) as processes:
        plan = RegistryPlan(store=f"etcd:{trio.url}")
        cluster = start_cluster(processes, _NODES, plan, (plan,))
        command: list[str | Path] = [Path(sys.executable).parent / "portway", "forward", "--unencrypted", str(origin)]
        client = processes.start("client", command, environment=cluster.exports)
        eventually(lambda: "tcp://" in client.log.read_text())
        url, raw = client.log.read_text().splitlines()[:2]
        registries = [Restartable(processes, each) for each in cluster.registry_processes]
        nodes = [Restartable(processes, each.process) for each in cluster.nodes]

        def start_all() -> None:
            processes.forget_ended()
            for part in (*registries, *nodes):
                if part.ended():
                    part.begin()
            for part in (*registries, *nodes):
                processes.wait_ready(part.process)

        def ports() -> list[str]:
            found = [each.listen for each in cluster.nodes]
            for each in registries:
                with suppress(OSError, ValueError):
                    ready = json.loads(each.process.ready_file.read_text())  # type: ignore[union-attr]
                    found += [ready["listen"], ready["mesh_listen"]]
            return found

        with Crowd() as crowd:
            for _ in range(3):
                crowd.add(visitor(cluster, url.split("/")[2].partition(":")[0], address(raw.removeprefix("tcp://"))))
            crowd.add(stranger(ports))
            trio.members[0].pause()
            wait_for_outage(own_time)
            trio.members[0].resume()
            for member in trio.members:
                member.kill()
            wait_for_outage(own_time)
            for member in trio.members:
                member.launch()
            for member in trio.members:
                member.wait_until_serving()
            registries[0].ask_to_end()  # what it has counted it tells now
            registries[0].wait_end(30)
            for part in (*registries[1:], *nodes):
                part.signal(signal.SIGHUP)
            start_all()
            nodes[0].kill()
            start_all()
            for each in registries:
                each.kill()
            wait_for_outage(own_time)
            start_all()
            nodes[1].ask_to_end()
            nodes[1].wait_end(30)
            start_all()
            for part in (registries[1], nodes[0]):
                part.signal(signal.SIGABRT)
                eventually(part.ended)
            start_all()
    logs = lines_of(tmp_path)
    assert set(logs) == {"registry", "registry-2", "relay-fra", "relay-iad"}
    for name in ("registry-2", "relay-fra"):
        (last_words,) = [line for line in logs[name] if line["logger"] == "stderr"]
        assert last_words["event"] == "Fatal Python error: Aborted"
    for name, lines in logs.items():
        by_asyncio = [line for line in lines if line["logger"] in ("asyncio", "portway_runtime.uncaught")]
        assert not by_asyncio, name
        told = Counter(fact(line) for line in lines if line["level"] in ("warning", "error"))
        # One process logs a fact once, and its number at its end; the log is of the few that ran one after another.
        assert all(times <= 6 for times in told.values()), told.most_common(3)
    changed = [line for line in logs["registry"] if line["event"] == "etcd endpoint changed"]
    assert max(line.get("times", 1) for line in changed) > 5


def fact(line: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in line.items() if key not in ("time", "times", "suppressed")})
