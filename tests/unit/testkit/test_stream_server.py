"""The test kit's server on streams. What it leaves open fails these tests, as it does all others."""

import asyncio
import socket
from contextlib import suppress

import pytest
from portway_testkit.links.stream_server import StreamServer


@pytest.mark.parametrize("turns", range(6))
async def test_it_may_end_in_any_turn_after_a_connection_came(turns: int) -> None:
    async def hold(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with StreamServer(hold) as server:
        visitor = socket.create_connection(("127.0.0.1", server.port))
        for _ in range(turns):
            await asyncio.sleep(0)
    visitor.settimeout(5)
    with visitor, suppress(ConnectionResetError):
        assert visitor.recv(1) == b""
