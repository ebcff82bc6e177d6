"""PROXY headers (HAProxy's PROXY protocol, versions 1 and 2) at ports that do not understand them.

A load balancer that sends them makes every connection fail, as if the program behind were broken. Here: recognising
one, and telling of it. Not here: reading one.
"""

import logging
from typing import Final

from portway_runtime.endpoints import Endpoint

logger = logging.getLogger(__name__)

# Sections 2.1 and 2.2 of its specification. A sender has to send the header at once.
_BEGINNINGS: Final = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", b"\r\n\r\n\0\r\nQUIT\n")


class UnexpectedProxyHeaders:
    """Those that came to one port. `seen` counts them."""

    def __init__(self, port: str) -> None:
        """`port` is how the port is called in the log."""
        self._port = port
        self.seen = 0

    def notice(self, first_bytes: bytes, peer: Endpoint) -> bool:
        """Whether a connection, which is none that the port serves, begins with such a header. It is logged; all those
        of one address are one fact there, which is counted."""
        if not first_bytes.startswith(_BEGINNINGS):
            return False
        self.seen += 1
        logger.warning(
            "connections begin with a PROXY header and are refused: turn it off at the load balancer in front, "
            "or name its address in proxy_protocol_from",
            extra={"port": self._port, "peer": peer.host},
        )
        return True
