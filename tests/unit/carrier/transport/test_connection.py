"""portway_carrier.python.transport.connection: what it does with a transport that has broken."""

import asyncio
import logging
import socket
import struct

import pytest
from portway_carrier.python.core.core import Core
from portway_carrier.python.transport.stream import PyStream
from portway_carrier.values import Limits
from portway_runtime.endpoints import Endpoint
from portway_testkit.links.carrier_link import until


async def test_what_is_written_in_the_turn_in_which_it_broke_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """A lane's read may hold many pieces for a visitor that has reset its connection: asyncio would complain of each
    after the fifth."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        sock, _ = listening.accept()
    sock.setblocking(False)
    stream = PyStream(Core(Limits()), Endpoint("127.0.0.1", 1), tls=False)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: stream, sock)
    stream.pause_source()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    with caplog.at_level(logging.WARNING, "asyncio"):
        for _ in range(20):
            stream.write(b"a piece")
        await until(lambda: stream.transport is None)
    assert not caplog.records
