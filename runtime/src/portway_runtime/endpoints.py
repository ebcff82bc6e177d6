"""Endpoints: `host:port` as a value, how it is read from text, and the forms that a host may have."""

import re
from dataclasses import dataclass
from typing import Final

MAX_PORT: Final = 65_535
# Where the registry is reached at its name: the public port of nodes, which pass connections on.
REGISTRY_PORT: Final = 443
# A host with or without a port, or an IPv6 address without brackets (only where the port may be left out).
_FORM: Final = re.compile(
    r"(?:\[(?P<bracketed>[^][]+)]|(?P<host>[^][:]*))(?::(?P<port>[^:]*))?|(?P<bare>[^][:]*:[^][:]*:[^][]*)"
)


# Characters that a resolver accepts in a name; of any length that DNS allows.
_DNS_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")
_USE: Final = "use HOST:PORT, with an IPv6 address in brackets, as in [::1]:7400"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host (name or IP address, without brackets) and a port.

    To listen on: host "" is every address of the machine, port 0 any free port.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str, *, default_port: int | None = None, wildcard: bool = False) -> Endpoint:
    """Read `host:port` or `[ipv6]:port`. Raises ValueError.

    default_port: the port may be left out, and then an IPv6 address needs no brackets.
    wildcard: `:port` and `*:port` are allowed and give host "".
    """
    found = _FORM.fullmatch(text)
    if found is None or (found["port"] is None and default_port is None):
        raise ValueError(_USE)
    host = found["bracketed"] or found["bare"] or found["host"]
    if host in ("", "*"):
        if not wildcard:
            raise ValueError(_USE)
        host = ""
    try:
        port = default_port if found["port"] is None else parse_port(found["port"])
    except ValueError as error:
        raise ValueError(f"{_USE}; {error}") from None
    assert port is not None
    return Endpoint(host, port)


def parse_registry(text: str) -> Endpoint:
    """Read where the registry is reached: `host:port`, or a host alone, which means REGISTRY_PORT. An IPv6 address is
    in brackets: without them its end may be meant for a port. Raises ValueError."""
    endpoint = parse_endpoint(text, default_port=REGISTRY_PORT)
    if not endpoint.port or (":" in endpoint.host and not text.startswith("[")):
        raise ValueError(_USE)
    return endpoint


def is_dns_name(text: str) -> bool:
    """Whether `text` has the form of a DNS name without a last dot; it need not exist."""
    return _DNS_NAME.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """Whether `text` is a DNS name, or an IP address that means the same on every machine: without a zone (`%eth0`)."""
    import socket  # a program that only imports the client does not pay for it

    if is_dns_name(text):
        return True
    try:
        socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return False
    return True


def parse_port(text: str) -> int:
    """Read a port from 0 to 65535. Raises ValueError."""
    if not text.isascii() or not text.isdecimal() or int(text) > MAX_PORT:
        raise ValueError(f"a port is a number from 0 to {MAX_PORT}")
    return int(text)
