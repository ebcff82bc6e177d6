"""TLS handshakes with real servers: how each ends."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trustme
from portway_registry.doctor.handshakes import How, shake_hands, trusting
from portway_relay.ingress.decision import Alert
from portway_runtime.endpoints import Endpoint

ZONE = "fra.tun.example.com"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[Endpoint]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])


def says(answer: bytes) -> Serve:
    """Answers the first bytes with these, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(answer)
        writer.close()

    return serve


async def test_handshakes_are_told_apart() -> None:
    """Done, with the certificate's times; untrusted, for another name; no listener; refused, no TLS, closed."""
    authority, other = trustme.CA(), trustme.CA()
    trusted = trusting(authority.cert_pem.bytes(), system=False)
    name = f"a.{ZONE}"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(f"*.{ZONE}").configure_cert(context)
    async with listening(says(b""), context) as at:
        done = await shake_hands(at, name, trusted)
        assert (done.how, done.reason) == (How.DONE, "")
        assert 0 < done.begins_s < done.end_s
        assert (await shake_hands(at, "a.lon.tun.example.com", trusted)).how is How.UNTRUSTED
        untrusted = await shake_hands(at, name, trusting(other.cert_pem.bytes(), system=True))
        assert untrusted.how is How.UNTRUSTED
        assert "self" in untrusted.reason or "issuer" in untrusted.reason
    assert (await shake_hands(at, name, trusted)).how is How.UNREACHED
    for answer, how in (
        (Alert.UNRECOGNIZED_NAME.record, How.NAME_REFUSED),
        (b"SSH-2.0-server\r\n", How.FAILED),
        (b"", How.FAILED),
    ):
        async with listening(says(answer)) as at:
            assert (await shake_hands(at, name, trusted)).how is how
