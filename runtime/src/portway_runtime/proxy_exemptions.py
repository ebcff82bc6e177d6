"""Reading `no_proxy`: which endpoints are reached without the proxy that the environment names.

curl's rules, and of other programs what curl takes for a name that nobody has: entries with a port, `*.example.com`,
IPv6 addresses in brackets, and `*` among others. Names are not resolved: a proxy may know names that this machine does
not.
"""

import socket
from typing import Final

from portway_runtime.endpoints import Endpoint, parse_endpoint

_EVERYTHING: Final = "*"


def is_exempt(exempt: str, endpoint: Endpoint) -> bool:
    """Whether an entry of the list is this endpoint's: its name or a parent of it, with or without a dot in front; its
    address or a network that it is in; each with or without a port. Entries are separated by commas or blanks."""
    entries = exempt.replace(",", " ").split()
    return any(_covers(entry, endpoint) for entry in entries)


def _covers(entry: str, endpoint: Endpoint) -> bool:
    if entry == _EVERYTHING:
        return True
    network, slash, bits = entry.partition("/")
    if slash:
        return _is_in(endpoint.host, network.strip("[]"), bits)
    host, port = _split(entry)
    if port not in (None, endpoint.port):
        return False
    address = _packed(endpoint.host)
    if address is not None:
        return address == _packed(host)
    return _is_below(_plain(endpoint.host), _plain(host.removeprefix("*").lstrip(".")))


def _split(entry: str) -> tuple[str, int | None]:
    """Host and port; the port is None when the entry has none."""
    try:
        found = parse_endpoint(entry, default_port=0)
    except ValueError:
        return entry, None
    return found.host, found.port or None


def _is_below(name: str, parent: str) -> bool:
    return bool(parent) and (name == parent or name.endswith("." + parent))


def _is_in(host: str, network: str, bits: str) -> bool:
    address, start = _packed(host), _packed(network)
    if address is None or start is None or len(address) != len(start) or not (bits.isascii() and bits.isdecimal()):
        return False
    others = len(address) * 8 - int(bits)
    return others >= 0 and int.from_bytes(address) >> others == int.from_bytes(start) >> others


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _packed(host: str) -> bytes | None:
    """The address, 4 or 16 bytes; None for a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError):
            pass
    return None
