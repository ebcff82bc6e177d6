"""Bringing a stream up: a socket that was accepted, or an address dialled; TLS on it; what went wrong, as a
CarrierError.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from portway_runtime.descriptors import EXHAUSTED

from portway_carrier.errors import CarrierError, ConnectFailed, ConnectionLost, HandshakeFailed
from portway_carrier.python.transport import kernel
from portway_carrier.python.transport.stream import PyStream
from portway_carrier.python.transport.tls_transport import TlsTransport
from portway_carrier.values import ClientTls

if TYPE_CHECKING:
    from portway_carrier.python.carrier import PythonCarrier


async def accept(
    carrier: "PythonCarrier", stream: PyStream, sock: socket.socket, context: ssl.SSLContext | None
) -> None:
    """Bring `stream` up on `sock`, or tell it why not; the socket is closed then."""
    try:
        sock.setblocking(False)
        kernel.keep_alive(sock)
        async with asyncio.timeout(carrier.limits.handshake if context is not None else None):
            await _come_up(carrier, stream, partial(carrier.loop.connect_accepted_socket, sock=sock), context)
    except (OSError, ValueError) as error:
        sock.close()
        if context is None:
            stream.failed(ConnectionLost(f"the socket is gone: {error}"))
        else:
            # Who leaves before it is done has failed at nothing: clients race nodes, and drop all but one.
            carrier.totals.handshakes_failed += not isinstance(error, ConnectionResetError)
            stream.failed(_handshake_error(error))
    except asyncio.CancelledError:
        sock.close()
        stream.failed(ConnectionLost("closed here", clean=True))
        raise
    else:
        carrier.totals.handshakes += context is not None
        _be_up_or_lost(stream)


async def connect(
    carrier: "PythonCarrier", stream: PyStream, tls: ClientTls | None = None, context: ssl.SSLContext | None = None
) -> None:
    """Dial the stream's peer, or tell it why not."""
    address, limit = stream.peer, carrier.limits.handshake
    dial = partial(carrier.loop.create_connection, host=address.host, port=address.port)
    try:
        async with asyncio.timeout(limit):
            await _come_up(carrier, stream, dial, context, tls.server_name if tls is not None else None)
    except (ssl.SSLError, ConnectionAbortedError, ConnectionResetError) as error:
        stream.failed(_handshake_error(error) if tls is not None else ConnectFailed(f"{address}: {error.strerror}"))
    except TimeoutError:
        stream.failed(ConnectFailed(f"{address} did not answer within {limit:g} s"))
    except OSError as error:
        refused, exhausted = isinstance(error, ConnectionRefusedError), error.errno in EXHAUSTED
        stream.failed(ConnectFailed(f"{address}: {error.strerror or error}", refused=refused, exhausted=exhausted))
    except ValueError as error:  # a host name that none can be
        stream.failed(ConnectFailed(f"{address}: {error}"))
    except asyncio.CancelledError:
        stream.failed(ConnectionLost("closed here", clean=True))
        stream.drop()
        raise
    else:
        if stream.transport is not None:
            kernel.keep_transport_alive(stream.transport)
        _be_up_or_lost(stream)


async def _come_up(
    carrier: "PythonCarrier",
    stream: PyStream,
    connect: Callable[[Callable[[], asyncio.BufferedProtocol]], Awaitable[object]],
    context: ssl.SSLContext | None,
    server_name: str | None = None,
) -> None:
    """TCP, and TLS on it. Raises OSError and ValueError."""
    if context is None:
        await connect(lambda: stream)
        return
    tls = TlsTransport(carrier, context, stream, server_name)
    try:
        await connect(lambda: tls)
        await tls.handshake
    except BaseException:
        tls.abort()
        raise


def _be_up_or_lost(stream: PyStream) -> None:
    """asyncio reports success, without ever having called connection_made, where a transport was aborted meanwhile."""
    if stream.transport is None:
        stream.failed(ConnectionLost("it ended before it was up"))


def _handshake_error(error: OSError | ValueError) -> CarrierError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return HandshakeFailed(f"the peer's certificate is not trusted: {error.verify_message}", untrusted=True)
    if isinstance(error, ssl.SSLError):
        return HandshakeFailed(f"TLS: {error.reason or error}")
    if isinstance(error, TimeoutError):
        return HandshakeFailed("the handshake took too long")
    return HandshakeFailed(f"the connection ended during the handshake: {error}")
