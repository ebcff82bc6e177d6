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


def notice_header(first_bytes: bytes, peer: Endpoint, *, port: str) -> bool:
    """Whether a connection, which is none that the port serves, begins with such a header. It is logged; all those
    of one address are one fact there, which is counted. `port` is how the port is called in the log."""
    if not first_bytes.startswith(_BEGINNINGS):
        return False
    logger.warning(
        "connections begin with a PROXY header and are refused: turn it off at the load balancer in front, "
        "or name its address in proxy_protocol_from",
        extra={"port": port, "peer": peer.host},
    )
    return True
