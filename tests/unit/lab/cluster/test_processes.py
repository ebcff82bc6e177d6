"""Processes of the lab: what they come back to is theirs."""

import errno
import os
import socket
from pathlib import Path

import pytest
from portway_lab.cluster.processes import Processes

LOOPBACK = "127.0.0.1"


def test_a_port_is_kept_for_a_process_until_all_are_ended(tmp_path: Path) -> None:
    """Whether or not it listens there: neither another server nor a connection gets the port meanwhile."""
    with Processes(tmp_path) as processes:
        address = LOOPBACK, processes.kept_port(LOOPBACK)
        for _ in range(2):  # it is started, and again
            socket.create_server(address).close()
            with socket.socket() as other, pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
                other.bind(address)
    with socket.socket() as other:
        other.bind(address)
