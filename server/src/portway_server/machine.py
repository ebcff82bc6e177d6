"""What this machine is: its addresses, who listens on which port, what tells it apart from others.

Here: asking the system. Nothing is sent. Not here: what follows from the answers (plan.py, ports.py).
"""

import fcntl
import hashlib
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from portway_runtime.address_scopes import Scope, scope_of

from portway_server.ports import Holder, overlap

# Root servers of DNS: the route to them is the default one, and no packet is sent to find it.
_FAR_AWAY: Final = ((socket.AF_INET, "198.41.0.4"), (socket.AF_INET6, "2001:503:ba3e::2:30"))
_SOME_PORT: Final = 53
_PREFER_PUBLIC: Final = 2  # IPV6_PREFER_SRC_PUBLIC: no temporary address (RFC 5014)
_IPV6_ADDR_PREFERENCES: Final = 72
_SIOCGIFADDR: Final = 0x8915
_MACHINE_ID: Final = Path("/etc/machine-id")
# Files of /proc/net, and the state in them of a socket that takes connections or datagrams.
_TABLES: Final = (("tcp", "tcp", "0A"), ("tcp6", "tcp", "0A"), ("udp", "udp", "07"), ("udp6", "udp", "07"))


def own_addresses() -> list[str]:
    """The addresses by which this machine reaches the Internet, one of each family that does, IPv4 first; and all
    global addresses of its interfaces where that of the default route is not global."""
    routed = [address for family, far in _FAR_AWAY if (address := _source(family, far))]
    found = []
    for address in routed:
        if scope_of(address) is not Scope.GLOBAL:
            found += [one for one in _of_interfaces() if _is_ipv6(one) == _is_ipv6(address)] or [address]
        else:
            found.append(address)
    return list(dict.fromkeys(found))


def _source(family: socket.AddressFamily, far: str) -> str | None:
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        if family is socket.AF_INET6:
            with suppress(OSError):
                probe.setsockopt(socket.IPPROTO_IPV6, _IPV6_ADDR_PREFERENCES, _PREFER_PUBLIC)
        probe.connect((far, _SOME_PORT))
        address = str(probe.getsockname()[0])
        return None if scope_of(address) in (Scope.LOOPBACK, Scope.LINK_LOCAL) else address
    return None


def _is_ipv6(address: str) -> bool:
    return ":" in address


def _of_interfaces() -> Iterator[str]:
    """The global addresses of all interfaces; of IPv4 the first of each interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has none
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                address = socket.inet_ntoa(answer[20:24])
                if scope_of(address) is Scope.GLOBAL:
                    yield address
    with suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0]))
            if scope_of(address) is Scope.GLOBAL:
                yield address


def has_ipv6() -> bool:
    """Whether a socket can listen on IPv6 here."""
    with suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        return True
    return False


def listeners(proc: Path = Path("/proc")) -> list[Holder]:
    """Who listens on TCP and UDP ports. Without root the programs of other users have no name."""
    found = list(_sockets(proc))
    programs = _programs(proc, {f"socket:[{inode}]" for *_, inode in found})
    return [
        Holder(protocol, address, port, programs.get(f"socket:[{inode}]", ""))
        for protocol, address, port, _, inode in found
    ]


def users_at(address: str, port: int, proc: Path = Path("/proc")) -> set[int]:
    """The ids of the users whose programs may get connections to this address and TCP port."""
    return {
        user
        for protocol, held, held_port, user, _ in _sockets(proc)
        if (protocol, held_port) == ("tcp", port) and overlap(address, held)
    }


def _sockets(proc: Path) -> Iterator[tuple[str, str, int, int, str]]:
    """Of each socket that takes connections or datagrams: protocol, address, port, user and inode."""
    for table, protocol, state in _TABLES:
        with suppress(OSError):
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == state:
                    yield protocol, *_endpoint(fields[1]), int(fields[7]), fields[9]


def _endpoint(text: str) -> tuple[str, int]:
    """An address of /proc/net: words of 32 bits in the order of this machine, in hexadecimal."""
    raw, _, port = text.partition(":")
    words = [int(raw[at : at + 8], 16) for at in range(0, len(raw), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed), int(port, 16)


def _programs(proc: Path, sockets: set[str]) -> dict[str, str]:
    """Socket → `name (pid 12)` of a process that holds it."""
    found: dict[str, str] = {}
    for process in proc.glob("[0-9]*"):
        with suppress(OSError):
            for link in (process / "fd").iterdir():
                with suppress(OSError):
                    target = str(link.readlink())
                    if target in sockets and target not in found:
                        name = (process / "comm").read_text().strip()
                        found[target] = f"{name} (pid {process.name})"
    return found


def distinct_suffix() -> str:
    """Six characters that this machine keeps and others do not have, for the names of nodes."""
    try:
        known = _MACHINE_ID.read_text().strip()
    except OSError:
        known = ""
    return hashlib.sha256(f"portway {known or socket.gethostname()}".encode()).hexdigest()[:6]
