"""Ports for tests of raw tunnels, which 0 cannot stand for."""

import socket
from collections.abc import Callable

import pytest
from portway_relay.config import PortRange
from portway_testkit.ports import raw_port_range


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
