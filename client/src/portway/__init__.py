"""Put a local port on the Internet through a Portway mesh."""

from portway.errors import (
    AuthError,
    ClockError,
    ConfigError,
    Error,
    InvalidError,
    QuotaError,
    RemoteError,
    TakenOverError,
    TunnelLostError,
    UnreachableError,
)
from portway.forwarding import Forwarding, forward
from portway.tunnel import Tunnel

__all__ = [
    "AuthError",
    "ClockError",
    "ConfigError",
    "Error",
    "Forwarding",
    "InvalidError",
    "QuotaError",
    "RemoteError",
    "TakenOverError",
    "Tunnel",
    "TunnelLostError",
    "UnreachableError",
    "forward",
]
