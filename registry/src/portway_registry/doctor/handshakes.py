"""TLS handshakes as a visitor, a client or an operator does them: at one address, with one name.

Here: one handshake, and what became of it. Not here: which ones are done, and what is wrong with them.
"""

import asyncio
import errno
import os
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from portway_runtime.endpoints import Endpoint

AT_ONCE: Final = 32  # of one check
_LIMIT: Final = 5.0  # seconds: ten of the longest round trips on Earth, and a slow machine
_ALPN: Final = ("h2", "http/1.1")
# What a machine without the address's family says.
_NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class How(Enum):
    """How a handshake ended."""

    DONE = "done"
    NO_FAMILY = "this machine has no address of this family"
    UNREACHED = "no connection"
    NAME_REFUSED = "the server does not go by this name"
    UNTRUSTED = "the certificate is not trusted"
    FAILED = "the handshake failed"


@dataclass(frozen=True, slots=True)
class Handshake:
    """`reason` is for people, empty when it is done; `begins_s` and `end_s` are those of the certificate then."""

    at: Endpoint
    name: str
    how: How
    reason: str = ""
    begins_s: float = 0.0
    end_s: float = 0.0


async def shake_hands(at: Endpoint, name: str, context: ssl.SSLContext) -> Handshake:
    """One handshake with `name` as SNI, at an IP address."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(_LIMIT):
            _, writer = await asyncio.open_connection(at.host.strip("[]"), at.port, ssl=context, server_hostname=name)
    except TimeoutError:
        return Handshake(at, name, How.UNREACHED, f"no answer within {_LIMIT:g} s")
    except ssl.SSLCertVerificationError as error:
        return Handshake(at, name, How.UNTRUSTED, error.verify_message)
    except ssl.SSLError as error:
        refused = "UNRECOGNIZED_NAME" in (error.reason or "")
        return Handshake(at, name, How.NAME_REFUSED if refused else How.FAILED, error.reason or str(error))
    except (ConnectionResetError, ConnectionAbortedError):  # one that is not accepted at all is refused
        return Handshake(at, name, How.FAILED, "the connection was closed in the handshake")
    except OSError as error:
        how = How.NO_FAMILY if error.errno in _NO_ROUTE else How.UNREACHED
        return Handshake(at, name, how, os.strerror(error.errno) if error.errno else str(error))
    certificate = writer.get_extra_info("peercert") or {}
    writer.transport.abort()
    begins, end = (ssl.cert_time_to_seconds(certificate.get(key, _NEVER)) for key in ("notBefore", "notAfter"))
    return Handshake(at, name, How.DONE, begins_s=begins, end_s=end)


_NEVER: Final = time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(0))


def trusting(ca: bytes | None, *, system: bool, alpn: Sequence[str] = _ALPN) -> ssl.SSLContext:
    """A context that trusts these CAs (PEM), and the system's if `system`. Raises ssl.SSLError for a file of none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(list(alpn))
    if system:
        context.load_default_certs()
    if ca is not None:
        context.load_verify_locations(cadata=ca.decode("ascii", "replace"))
    return context
