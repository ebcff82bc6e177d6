"""What a failure while a stream is being established means, as a CarrierError."""

import ssl

from portway_carrier.errors import CarrierError, ConnectionLost, HandshakeFailed
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


def fail_unless_established(stream: PyStream) -> None:
    """asyncio reports success, without having called connection_made, when the transport was aborted meanwhile."""
    if stream.transport is None:
        stream.failed(ConnectionLost("it ended before it was established"))
