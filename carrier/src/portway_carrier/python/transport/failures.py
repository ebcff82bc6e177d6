"""What a failure while a stream is being established means, as a CarrierError."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from portway_carrier.errors import CarrierError, ConnectFailed, ConnectionLost, HandshakeFailed
from portway_carrier.python.transport.stream import PyStream


def handshake_error(error: OSError | ValueError, way: str = "") -> CarrierError:
    """The error of a TLS handshake. `way` is added to its text."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return HandshakeFailed(f"the peer's certificate is not trusted: {error.verify_message}{way}", untrusted=True)
    if isinstance(error, ssl.SSLError):
        return HandshakeFailed(f"TLS: {error.reason or error}{way}")
    if isinstance(error, TimeoutError):
        return HandshakeFailed(f"the handshake took too long{way}")
    return HandshakeFailed(f"the connection ended during the handshake: {error}{way}")


@contextmanager
def dialling(stream: PyStream) -> Iterator[None]:
    """Around what dials the stream's peer: what every way there has in common. On failure the stream is notified, and
    nothing raised. Cancellation ends the stream."""
    try:
        yield
    except ValueError as error:  # not a valid host name
        stream.failed(ConnectFailed(f"{stream.peer}: {error}"))
    except asyncio.CancelledError:
        stream.failed(ConnectionLost("closed here", clean=True))
        stream.drop()
        raise
    else:
        fail_unless_established(stream)


def fail_unless_established(stream: PyStream) -> None:
    """asyncio reports success, without having called connection_made, when the transport was aborted meanwhile."""
    if stream.transport is None:
        stream.failed(ConnectionLost("it ended before it was established"))
