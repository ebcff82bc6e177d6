"""What a program sets for every socket of its process does not reach the carrier's."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
from portway_carrier.values import ServerTls
from portway_testkit.links.carrier_link import LinkMaker, closed, local_server, visit

# Seconds; longer than a test may take.
DEFAULT_TIMEOUT = 100.0
PROMPT = 10.0


@pytest.fixture
async def default_timeout() -> AsyncIterator[None]:
    socket.setdefaulttimeout(DEFAULT_TIMEOUT)
    yield
    socket.setdefaulttimeout(None)


@pytest.mark.parametrize("tls", [False, True], ids=["raw", "tls"])
@pytest.mark.usefixtures("default_timeout")
async def test_a_default_timeout_delays_no_answer(
    make_link: LinkMaker, server_tls: ServerTls, trusting: ssl.SSLContext, tls: bool
) -> None:
    """The local server answers and keeps the connection: whether it has also ended is asked without waiting."""
    link = await make_link()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(100):
            writer.write(b"answer to " + request)

    async with local_server(answer) as port:
        link.serve_with(port)
        async with asyncio.timeout(PROMPT):
            if tls:
                at = link.visitors(server_tls)
                reader, writer = await asyncio.open_connection(
                    at.host, at.port, ssl=trusting, server_hostname="node.test"
                )
            else:
                reader, writer = await visit(link.visitors())
            for _ in range(3):
                writer.write(b"request")
                assert await reader.read(100) == b"answer to request"
            await closed(writer)
            await link.end()
    await link.settled()
