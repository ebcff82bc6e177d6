"""What the relay node's tests start from: a configuration, connected sockets, a clock that stands still."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from portway_registry.pki.ca_folder import CaFolder
from portway_relay.config import NodeConfig, NodeLimits, PortRange
from portway_runtime.endpoints import Endpoint
from portway_testkit.fakes.certificate_files import Files
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.processes.ports import raw_port_range

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(scope="session")
def certificate_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The fields of a configuration that name the certificates of the node `relay-1` in `fra`; the files are there."""
    pki = tmp_path_factory.mktemp("relay-1") / "pki"
    authority = CaFolder.create(pki)
    authority.add_node("relay-1")
    authority.add_region("fra", "example.com")
    return {
        "cluster_ca": pki / "ca.crt",
        "cert": pki / "node-relay-1.crt",
        "key": pki / "node-relay-1.key",
        "tls_cert": (pki / "region-fra.crt",),
        "tls_key": (pki / "region-fra.key",),
    }


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def connect() -> Iterator[Callable[[], Pair]]:
    """Makes TCP connections over loopback: the accepted end as a listener hands it on, and the visitor's."""
    made: list[socket.socket] = []

    def make() -> Pair:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            theirs = socket.create_connection(listening.getsockname())
            ours, _ = listening.accept()
        theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for sock in (ours, theirs):
            sock.setblocking(False)
            made.append(sock)
        return ours, theirs

    yield make
    for sock in made:
        sock.close()


@pytest.fixture
def node_config(tmp_path: Path) -> Callable[..., NodeConfig]:
    """A node's configuration, on loopback and with files in a folder of the test's; arguments replace fields."""

    def make(*, limits: dict[str, Any] | None = None, **changes: Any) -> NodeConfig:
        config = NodeConfig(
            name="relay-1",
            region="fra",
            domain="example.com",
            listen=Endpoint("127.0.0.1", 0),
            registry=(Endpoint("127.0.0.1", 1),),
            cluster_ca=tmp_path / "ca.pem",
            cert=tmp_path / "node.pem",
            key=tmp_path / "node.key",
            tls_cert=(tmp_path / "region.pem",),
            tls_key=(tmp_path / "region.key",),
            limits=NodeLimits(**(limits or {})),
        )
        return replace(config, **changes)

    return make


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(node_config: Callable[..., NodeConfig], authority: trustme.CA) -> Files:
    """Files that fit together."""
    files = Files(node_config(), authority, datetime.now(UTC))
    files.config.cluster_ca.write_bytes(authority.cert_pem.bytes())
    files.node()
    files.region()
    return files


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.fixture
def free_ports() -> Callable[[int], PortRange]:
    """Finds a range of so many ports of which nobody has one."""

    def find(size: int) -> PortRange:
        while True:
            ports = PortRange(*raw_port_range(size))
            if all(_is_free(port) for port in range(ports.first, ports.last + 1)):
                return ports

    return find
