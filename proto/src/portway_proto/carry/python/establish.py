"""Bringing a stream up: a socket that was accepted, or an address dialled; TLS on it; what went wrong, as a
CarrierError.
"""

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any

from portway_proto.carry.errors import CarrierError, ConnectFailed, ConnectionLost, HandshakeFailed
from portway_proto.carry.python.stream import PyStream
from portway_proto.carry.settings import ClientTls

if TYPE_CHECKING:
    from portway_proto.carry.python.carrier import PythonCarrier


async def accept(
    carrier: "PythonCarrier", stream: PyStream, sock: socket.socket, context: ssl.SSLContext | None
) -> None:
    """Bring `stream` up on `sock`, or tell it why not; the socket is closed then."""
    try:
        sock.setblocking(False)
        await carrier.loop.connect_accepted_socket(lambda: stream, sock, ssl=context, **_timeouts(carrier, context))
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
    options = _timeouts(carrier, context)
    if tls is not None:
        options["server_hostname"] = tls.server_name
    try:
        async with asyncio.timeout(limit):
            await carrier.loop.create_connection(lambda: stream, address.host, address.port, ssl=context, **options)
    except (ssl.SSLError, ConnectionAbortedError, ConnectionResetError) as error:
        stream.failed(_handshake_error(error) if tls is not None else ConnectFailed(f"{address}: {error.strerror}"))
    except TimeoutError:
        stream.failed(ConnectFailed(f"{address} did not answer within {limit:g} s"))
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError)
        stream.failed(ConnectFailed(f"{address}: {error.strerror or error}", refused=refused))
    except ValueError as error:  # a host name that none can be
        stream.failed(ConnectFailed(f"{address}: {error}"))
    except asyncio.CancelledError:
        stream.failed(ConnectionLost("closed here", clean=True))
        stream.drop()
        raise
    else:
        _be_up_or_lost(stream)


def _timeouts(carrier: "PythonCarrier", context: ssl.SSLContext | None) -> dict[str, Any]:
    if context is None:
        return {}
    return {"ssl_handshake_timeout": carrier.limits.handshake, "ssl_shutdown_timeout": carrier.limits.linger}


def _be_up_or_lost(stream: PyStream) -> None:
    """asyncio reports success, without ever having called connection_made, where a transport was aborted meanwhile."""
    if stream.transport is None:
        stream.failed(ConnectionLost("it ended before it was up"))


def _handshake_error(error: OSError | ValueError) -> CarrierError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return HandshakeFailed(f"the peer's certificate is not trusted: {error.verify_message}", untrusted=True)
    if isinstance(error, ssl.SSLError):
        return HandshakeFailed(f"TLS: {error.reason or error}")
    return HandshakeFailed(f"the connection ended during the handshake: {error}")
