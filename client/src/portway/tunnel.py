"""A tunnel as a value: the request for one, and the public address that it has once it is open.

Not here: checking what a program passed (forwarding.py), opening and closing (engine/).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from portway.config import Settings
from portway.errors import InvalidError, TunnelLostError

logger = logging.getLogger(__name__)

HTTPS_PORT = 443

TunnelLost = Callable[[TunnelLostError], None]


@dataclass(frozen=True)
class Tunnel:
    """The public address of a forwarded port. Fields and properties are those of Modal's `Tunnel`."""

    host: str
    port: int
    unencrypted_host: str = ""
    unencrypted_port: int = 0

    @property
    def url(self) -> str:
        """`https://HOST`, with the port when it is not 443."""
        return f"https://{self.host}" if self.port == HTTPS_PORT else f"https://{self.host}:{self.port}"

    @property
    def tls_socket(self) -> tuple[str, int]:
        """Host and port for a TLS connection."""
        return (self.host, self.port)

    @property
    def tcp_socket(self) -> tuple[str, int]:
        """Host and port for a connection without TLS. Raises InvalidError when the tunnel has none."""
        if not self.unencrypted_host:
            raise InvalidError("this tunnel has no unencrypted port: open it with forward(port, unencrypted=True)")
        return (self.unencrypted_host, self.unencrypted_port)


@dataclass(frozen=True, slots=True)
class Before:
    """What another engine needs to open a tunnel again under the same URL.

    private_key: the tunnel's, 32 bytes. tunnel: its address. ticket: for its raw port; b"" without one.
    """

    private_key: bytes = field(repr=False)
    tunnel: Tunnel
    ticket: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class TunnelRequest:
    """One tunnel to open; its fields have been checked.

    host: where the local server is; None is this machine. timeout: seconds that opening may take. tunnel_lost: called
    on the engine's thread when the tunnel is lost for good. key: the path of the key file;
    "" is a key in memory. before: it was open in an engine that has ended. proxy_protocol: the version of the PROXY
    headers that the local server gets, 1 or 2; 0 for none.
    """

    port: int
    host: str | None
    unencrypted: bool
    h2_enabled: bool
    timeout: float
    settings: Settings
    tunnel_lost: TunnelLost | None = None
    key: str = ""
    before: Before | None = None
    proxy_protocol: int = 0


def tell_program(lost: TunnelLostError, tunnel_lost: TunnelLost | None) -> bool:
    """A tunnel is lost for good: call the program's callback. Returns whether the program was told; an error that it
    raises is logged."""
    if tunnel_lost is None:
        return False
    try:
        tunnel_lost(lost)
    except Exception:
        logger.exception("the program's tunnel_lost callback failed")
        return False
    return True
