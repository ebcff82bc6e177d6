"""gRPC: the target of a channel to a registry whose addresses are known. Not here: looking names up (names.py)."""

import socket
from collections.abc import Sequence
from typing import Final

from portway_runtime.endpoints import Endpoint
from portway_runtime.names import Address, literal_address

# Seconds that looking a registry's name up may take, before the time of the call itself.
LOOKUP_TIMEOUT: Final = 3.0

Options = tuple[tuple[str, str], ...]


def is_address(endpoint: Endpoint) -> bool:
    """Whether gRPC can be given the endpoint as it is: its host is an address."""
    return literal_address(endpoint.host) is not None


def target_of(endpoint: Endpoint, addresses: Sequence[Address], server_name: str | None = None) -> tuple[str, Options]:
    """What a channel to a named endpoint is made with, whose addresses are known. gRPC's own resolver knows no more
    than one family of a name that /etc/hosts gives two, and waits for resolvers that do not answer. From these
    addresses on it races them by itself (RFC 8305, 250 ms apart).

    The certificate is to be for the endpoint's name, or for `server_name`.
    """
    if all(address.family == socket.AF_INET for address in addresses):
        target = "ipv4:" + ",".join(f"{address.host}:{endpoint.port}" for address in addresses)
    else:  # one target holds addresses of one family: IPv4 ones in their IPv6 form, which gRPC dials as IPv4
        hosts = [("::ffff:" if address.family == socket.AF_INET else "") + address.host for address in addresses]
        target = "ipv6:" + ",".join(f"[{host}]:{endpoint.port}" for host in hosts)
    return target, (("grpc.ssl_target_name_override", server_name or endpoint.host),)
