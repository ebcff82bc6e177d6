"""The errors that a carrier raises and reports.

CarrierError
├── ConnectFailed      the peer cannot be reached: refused, unreachable, timed out
├── HandshakeFailed    the TLS handshake failed: untrusted certificate, no common version, garbage, timed out
├── ConnectionLost     an established connection ended; `clean` when nothing of it was lost
├── PeerSilent         nothing was received for too long, though the socket may look alive
├── ProtocolViolation  the peer broke the lane protocol
├── PeerFailed         the peer sent FAIL; its code and message are in `payload`
└── TlsSettingsError   a certificate, key or CA cannot be used; the message says which
"""


class CarrierError(Exception):
    """Base of every error of a carrier."""


class ConnectFailed(CarrierError):
    """The peer could not be reached. `refused`: it answered that nothing listens there. `exhausted`: it was not
    dialled, because this process or machine can open no more sockets. `proxy`: because of the proxy on the way."""

    def __init__(self, message: str, *, refused: bool = False, exhausted: bool = False, proxy: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        self.exhausted = exhausted
        self.proxy = proxy


class HandshakeFailed(CarrierError):
    """The TLS handshake failed. `untrusted`: this side did not trust the peer's certificate."""

    def __init__(self, message: str, *, untrusted: bool = False) -> None:
        super().__init__(message)
        self.untrusted = untrusted


class ConnectionLost(CarrierError):
    """The connection ended. `clean`: this side closed it, or it was a stream that its peer ended in order. A lane that
    its peer closed, or that was aborted here, is not clean."""

    def __init__(self, message: str, *, clean: bool = False) -> None:
        super().__init__(message)
        self.clean = clean


class PeerSilent(CarrierError):
    """Nothing was received from the peer for too long."""


class ProtocolViolation(CarrierError):
    """The peer broke the lane protocol."""


class PeerFailed(CarrierError):
    """The peer closed the lane with FAIL. `payload` is that of the frame (portway.v1.Failure)."""

    def __init__(self, payload: bytes) -> None:
        super().__init__("the peer closed the lane with FAIL")
        self.payload = payload


class TlsSettingsError(CarrierError):
    """A certificate, key or CA cannot be used. `exhausted`: only now, because a descriptor, memory or
    a temporary file was not to be had."""

    def __init__(self, message: str, *, exhausted: bool = False) -> None:
        super().__init__(message)
        self.exhausted = exhausted
