"""Peers that break handshakes off, at every command: gRPC's core would write 200 bytes to stderr for each, past every
bound on the log."""

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from portway_lab.cluster.portway import LOOPBACK
from portway_lab.cluster.processes import Processes, clean_environment
from portway_testkit.waiting import eventually

_PROGRAMS = Path(sys.executable).parent
_TIMEOUT = 30.0
_BROKEN = b"HTTP/1.1 400 Bad Request\r\n\r\n"
# A whole TLS record with a handshake message that no release knows: what is shorter, or is none, never reaches gRPC.
_BROKEN_HELLO = b"\x16\x03\x01\x00\x08\xfe\x00\x00\x04hell"
_TIMES = 5
# As absl begins its lines: level, month and day, time. A server logs them.
_CORES_LINE = re.compile(r"^(?:\S+ \S+ \w+ +stderr: )?[IWEF]\d{4} \d\d:", re.MULTILINE)


class NoTls:
    """A port that answers every ClientHello with a line of HTTP; `count` is of connections."""

    def __init__(self) -> None:
        self.count = 0
        self._listening = socket.create_server((LOOPBACK, 0))
        self.address = f"{LOOPBACK}:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            with sock:
                sock.recv(1 << 16)
                sock.sendall(_BROKEN)
            self.count += 1

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture
def no_tls() -> Iterator[NoTls]:
    peer = NoTls()
    yield peer
    peer.close()


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    folder = tmp_path / "pki"
    words: list[str | Path] = [
        "pki",
        "init",
        "--dir",
        folder,
        "--domain",
        "localhost",
        "--region",
        "fra",
        "--node",
        "fra-1",
    ]
    subprocess.run(
        [_PROGRAMS / "portway-admin", *words, "--registry-host", LOOPBACK],
        env=clean_environment(),
        check=True,
        capture_output=True,
        timeout=_TIMEOUT,
    )
    return folder


Command = Callable[[Processes, NoTls, Path, dict[str, str]], str]


def _asking(program: str, words: Callable[[NoTls, Path], Sequence[str | Path]]) -> Command:
    """A command that calls a registry and ends: what it wrote."""

    def run(processes: Processes, no_tls: NoTls, pki: Path, environment: dict[str, str]) -> str:
        done = subprocess.run(
            [_PROGRAMS / program, *words(no_tls, pki)],
            env=clean_environment() | environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
        assert no_tls.address in done.stderr
        return done.stderr

    return run


def _relay(processes: Processes, no_tls: NoTls, pki: Path, environment: dict[str, str]) -> str:
    """A node that looks for its registry, until it has tried a few times."""
    names = ("--name", "fra-1", "--region", "fra", "--domain", "localhost")
    files = ("--cluster-ca", "ca.crt", "--cert", "node-fra-1.crt", "--key", "node-fra-1.key")
    visitors = ("--tls-cert", "region-fra.crt", "--tls-key", "region-fra.key")
    words = [pki / word if word.endswith((".crt", ".key")) else word for word in (*names, *files, *visitors)]
    ports = ("--listen", f"{LOOPBACK}:0", "--registry", no_tls.address)
    process = processes.start("relay", [_PROGRAMS / "portway-relay", "serve", *words, *ports], environment=environment)
    eventually(lambda: no_tls.count >= _TIMES)
    processes.end()
    return process.log.read_text()


def _registry(processes: Processes, no_tls: NoTls, pki: Path, environment: dict[str, str]) -> str:
    """A registry at whose ports strangers begin TLS, and do not go on."""
    files = ("--tls-cert", pki / "registry.crt", "--tls-key", pki / "registry.key")
    ports = ("--listen", f"{LOOPBACK}:0", "--mesh-listen", f"{LOOPBACK}:0", "--store", "embedded:memory")
    keep = ("--admin-token-file", pki / "admin-token")
    command: list[str | Path] = [_PROGRAMS / "portway-registry", "serve", *files, *ports, *keep]
    process = processes.start("registry", command, ready_flag=True, environment=environment)
    ready = processes.wait_ready(process)
    for address in (ready["listen"], ready["mesh_listen"]):
        host, _, port = address.rpartition(":")
        for _ in range(_TIMES):
            with socket.create_connection((host, int(port)), _TIMEOUT) as stranger:
                stranger.sendall(_BROKEN_HELLO)
                try:
                    while stranger.recv(100):
                        pass
                except ConnectionResetError:
                    pass
    processes.end()
    return process.log.read_text()


_COMMANDS: dict[str, Command] = {
    "portway netcheck": _asking(
        "portway", lambda peer, pki: ["netcheck", "--registry", peer.address, "--ca", pki / "ca.crt"]
    ),
    "portway forward": _asking(
        "portway",
        lambda peer, pki: ["forward", "1", "--timeout", "20", "--registry", peer.address, "--ca", pki / "ca.crt"],
    ),
    "portway-admin": _asking(
        "portway-admin", lambda peer, pki: ["--registry", peer.address, "--ca", pki / "ca.crt", "node", "list"]
    ),
    "portway-registry": _registry,
    "portway-relay": _relay,
}
_TOKEN = f"pw_{'a' * 12}_{'b' * 32}"


@pytest.mark.parametrize("wanted", [False, True], ids=["silent", "wanted"])
@pytest.mark.parametrize("command", _COMMANDS.values(), ids=_COMMANDS)
def test_grpc_writes_only_where_it_was_asked_to(
    tmp_path: Path, no_tls: NoTls, pki: Path, command: Command, wanted: bool
) -> None:
    """The command says itself what is wrong. With GRPC_VERBOSITY of the operator's own, the core's lines are there:
    these handshakes do fail."""
    environment = {"PORTWAY_TOKEN": _TOKEN, "PORTWAY_ADMIN_TOKEN": _TOKEN}
    if wanted:
        environment["GRPC_VERBOSITY"] = "INFO"
    with Processes(tmp_path) as processes:
        written = command(processes, no_tls, pki, environment)
    assert (_CORES_LINE.search(written) is not None) is wanted, written
