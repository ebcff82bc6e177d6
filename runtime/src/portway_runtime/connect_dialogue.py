"""What is said to an HTTP proxy before a connection through it carries bytes: CONNECT and the answer (RFC 9110 §9.3.6).

Bytes in, bytes out; no I/O. The name of what is to be reached is the proxy's to look up. What follows the answer's
header is the other end's and is kept for it. Errors name the proxy and never its login.
"""

import base64
import re
import socket
from typing import Final

from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ProxyFailed
from portway_runtime.printable import printable_line
from portway_runtime.proxies import Proxy

# Bytes of an answer's header. Proxies send a few hundred; some add cookies or a page's worth of fields to a refusal.
MAX_HEADER: Final = 16 * 1024
_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] +([1-9][0-9]{2})(?: ([^\r\n]*))?\r?\n")
_BEGINNING: Final = b"HTTP/1."
_END: Final = re.compile(rb"\n\r?\n")
_SHOWN: Final = 80  # characters of what a proxy says about itself

_LOGIN: Final = (407, 401)  # the second is tinyproxy's for a wrong password
_FORBIDDEN: Final = 403
_UNREACHED: Final = (502, 503, 504)


class ConnectDialogue:
    """One CONNECT. Send `request`, then give `take` what arrives."""

    def __init__(self, proxy: Proxy, target: Endpoint) -> None:
        self._proxy = proxy
        self._target = target
        self._header = b""

    @property
    def request(self) -> bytes:
        """The request, login included."""
        lines = [f"CONNECT {self._target} HTTP/1.1", f"Host: {self._target}", "User-Agent: portway"]
        if self._proxy.login is not None:
            login = base64.b64encode(":".join(self._proxy.login).encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {login}")
        return "\r\n".join([*lines, "", ""]).encode("ascii", "replace")

    def take(self, data: bytes) -> bytes | None:
        """Take what arrived. None: the answer goes on. Otherwise the connection is the target's, and the bytes that are
        returned are the first from there. Raises ProxyFailed for an answer that gives no connection."""
        self._header += data
        while True:
            if not self._header.startswith(_BEGINNING[: len(self._header)]):
                raise self._failed("does not answer as an HTTP proxy does: check its address and port")
            found = _END.search(self._header, 0, MAX_HEADER)
            if found is None:
                if len(self._header) >= MAX_HEADER:
                    raise self._failed(f"sends a header of more than {MAX_HEADER // 1024} KiB: is it an HTTP proxy?")
                return None
            header, self._header = self._header[: found.end()], self._header[found.end() :]
            status = _STATUS.match(header)
            if status is None:
                raise self._failed("does not answer as an HTTP proxy does: check its address and port")
            code = int(status[1])
            if code >= 300:
                raise self._refused(code, status[2] or b"", header)
            if code >= 200:
                return self._header
            # 1xx announces another answer.

    def ended(self) -> ProxyFailed:
        """The error that the end of the connection is, before the answer is whole."""
        said = "in the middle of its answer" if self._header else "without an answer"
        return self._failed(
            f"closes the connection {said}: check its address and port, and whether it wants https://", lasting=False
        )

    def _refused(self, code: int, reason: bytes, header: bytes) -> ProxyFailed:
        words = printable_line(reason.decode("ascii", "replace")).strip()[:_SHOWN]
        said = f"{code} {words}" if words else str(code)
        if code in _LOGIN:
            return self._failed(self._about_login(code, header))
        if code == _FORBIDDEN:
            return self._failed(
                f"does not let connections to {self._target} through ({said}): ask whoever runs it to allow CONNECT to "
                "this host and port"
            )
        if code in _UNREACHED:
            return self._failed(
                f"cannot reach {self._target} ({said}): check that host and port are right, and whether it may connect "
                "there",
                lasting=False,
            )
        return self._failed(f"refuses to connect to {self._target} ({said}): is it an HTTP proxy that allows CONNECT?")

    def _about_login(self, code: int, header: bytes) -> str:
        offered = re.findall(rb"(?im)^proxy-authenticate:[ \t]*([a-z0-9-]+)", header)
        kinds = ", ".join(dict.fromkeys(kind.decode("ascii")[:_SHOWN] for kind in offered[:8]))
        if offered and not any(kind.lower() == b"basic" for kind in offered):
            return (
                f"wants a login by {kinds}, and Portway knows Basic alone: run a proxy on this machine that logs in "
                "for it, such as cntlm or px, and name that one"
            )
        if self._proxy.login is None:
            return f"wants a login ({code}): write it into its URL, as in http://USER:PASSWORD@HOST:PORT"
        return (
            f"does not accept the user and password of its URL ({code}): check them, each of @ : / % is written as %XX"
        )

    def _failed(self, what: str, *, lasting: bool = True) -> ProxyFailed:
        return ProxyFailed(f"{self._proxy}, {what}", lasting=lasting)


def unreached(proxy: Proxy, error: OSError | ValueError) -> ProxyFailed:
    """What it means that no connection to the proxy itself could be made."""
    if isinstance(error, socket.gaierror):
        return ProxyFailed(f"{proxy}, has a name that cannot be resolved: check it")
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return ProxyFailed(f"{proxy}, cannot be reached ({reason}): check its address and port, and that it runs")
