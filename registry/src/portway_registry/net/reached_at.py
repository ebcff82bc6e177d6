"""Where nodes reach a port of this machine."""

import socket
from typing import Final

from portway_runtime.endpoints import Endpoint

_EVERY_ADDRESS: Final = ("", "0.0.0.0", "::")
# Addresses for documentation (RFC 5737, RFC 3849): a datagram socket that is connected to one sends nothing, and has
# the address that this machine would send from.
_ELSEWHERE: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def reached_at(advertised: Endpoint | None, listening: Endpoint) -> Endpoint | None:
    """The address that nodes are told: the advertised one, or where this machine listens, or an address of its own
    where that is every address; None where it has none that leads anywhere."""
    if advertised is not None:
        return Endpoint(advertised.host, advertised.port or listening.port)
    if listening.host not in _EVERY_ADDRESS:
        return listening
    families = _ELSEWHERE[:1] if listening.host == "0.0.0.0" else _ELSEWHERE
    for family, elsewhere in families:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((elsewhere, 9))
                return Endpoint(sock.getsockname()[0], listening.port)
        except OSError:  # no route, or no such family
            continue
    return None
