"""What the system says of this machine."""

import os
import socket

from portway_server import machine


def test_this_process_is_named_as_who_listens() -> None:
    """With the address, of IPv4 and of IPv6, of TCP and of UDP."""
    with socket.socket() as tcp, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        udp.bind(("::1", 0))
        found = {(one.protocol, one.address, one.port): one.program for one in machine.listeners()}
        for key in (("tcp", "127.0.0.1", tcp.getsockname()[1]), ("udp", "::1", udp.getsockname()[1])):
            assert found[key].endswith(f"(pid {os.getpid()})")


def test_a_connection_is_no_listener() -> None:
    with socket.socket() as listening, socket.socket() as dialled:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        dialled.connect(listening.getsockname())
        found = {(one.address, one.port) for one in machine.listeners() if one.protocol == "tcp"}
        assert listening.getsockname() in found
        assert dialled.getsockname() not in found


def test_the_suffix_of_names_stays() -> None:
    """A machine that is set up again is the same node."""
    assert machine.distinct_suffix() == machine.distinct_suffix()
    assert len(machine.distinct_suffix()) == 6
