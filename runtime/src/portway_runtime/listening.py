"""Listening sockets on every address of a host, dual-stack, all on one port."""

import errno
import ipaddress
import socket
from collections.abc import Sequence
from typing import Final

from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError

_BACKLOG: Final = 4_096
# Port 0 becomes one port on every address of a name; another process may hold it on one of them.
_SAME_PORT_TRIES: Final = 16


def open_sockets(endpoint: Endpoint) -> list[socket.socket]:
    """Listening, non-blocking sockets on every address of the host, all on one port. Raises ListenError."""
    try:
        addresses = _addresses(endpoint.host)
    except OSError as error:
        raise _listen_error(endpoint, error) from error
    except UnicodeError as error:
        raise ListenError(f"cannot listen on {endpoint}: that is not a host name") from error
    for attempt in range(_SAME_PORT_TRIES):
        sockets: list[socket.socket] = []
        port = endpoint.port
        try:
            for family, host in addresses:
                sockets.append(_open(family, host, port))
                port = sockets[0].getsockname()[1]
        except OSError as error:
            for sock in sockets:
                sock.close()
            failure = _listen_error(endpoint, error)
            if endpoint.port == 0 and failure.port_taken and attempt < _SAME_PORT_TRIES - 1:
                continue
            raise failure from error
        return sockets
    raise AssertionError("the last try returns or raises")


def endpoint_of(name: Sequence[object]) -> Endpoint:
    """The endpoint of a socket name. An IPv4-mapped IPv6 address becomes an IPv4 one, and a scope is dropped."""
    host, port = str(name[0]).partition("%")[0], int(str(name[1]))
    if host.startswith("::ffff:"):
        mapped = ipaddress.IPv6Address(host).ipv4_mapped
        host = str(mapped) if mapped is not None else host
    return Endpoint(host, port)


def _listen_error(endpoint: Endpoint, error: OSError) -> ListenError:
    return ListenError(
        f"cannot listen on {endpoint}: {error.strerror or error}", port_taken=error.errno == errno.EADDRINUSE
    )


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    if host == "":
        return [(socket.AF_INET6, "::")] if socket.has_dualstack_ipv6() else [(socket.AF_INET, "0.0.0.0")]
    found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(name[0])) for family, _, _, _, name in found))


def _open(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        sock.setblocking(False)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
