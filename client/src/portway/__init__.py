"""Put a local port on the Internet through a Portway mesh."""

from portway.errors import (
    AuthError,
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
