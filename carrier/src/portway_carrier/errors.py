"""What a carrier reports.

CarrierError
├── ConnectFailed      the other end cannot be reached: refused, unreachable, timed out
├── HandshakeFailed    TLS did not come to be: untrusted certificate, no common version, garbage, timed out
├── ConnectionLost     it broke after it had been up; `clean` when the peer ended it in order
├── PeerSilent         nothing was heard for too long; the socket may look alive
├── ProtocolViolation  the peer sent frames it may not
├── PeerFailed         the peer said FAIL; its code and message are in `failure`
└── TlsSettingsError   a certificate, key or CA that cannot be used; says which
"""


class CarrierError(Exception):
    """Base of what a carrier reports."""


class ConnectFailed(CarrierError):
    """The other end could not be reached. `refused` when it answered that nobody listens there, `exhausted` when it was
    not even tried, for no more sockets can be opened here."""

    def __init__(self, message: str, *, refused: bool = False, exhausted: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        self.exhausted = exhausted


class HandshakeFailed(CarrierError):
    """TLS did not come to be. `untrusted` when it was the certificate that was refused here."""

    def __init__(self, message: str, *, untrusted: bool = False) -> None:
        super().__init__(message)
        self.untrusted = untrusted


class ConnectionLost(CarrierError):
    """The connection ended."""

    def __init__(self, message: str, *, clean: bool = False) -> None:
        super().__init__(message)
        self.clean = clean


class PeerSilent(CarrierError):
    """The peer answered nothing for too long."""


class ProtocolViolation(CarrierError):
    """The peer broke the lane protocol."""


class PeerFailed(CarrierError):
    """The peer closed the lane with FAIL; `payload` is that frame's (portway.v1.Failure)."""

    def __init__(self, payload: bytes) -> None:
        super().__init__("the peer closed the lane and said why")
        self.payload = payload


class TlsSettingsError(CarrierError):
    """A certificate, key or CA that cannot be used."""
