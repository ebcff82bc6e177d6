"""What is written for a machine, and what its operator has to know: decided from what was asked for and what was found.

Here: deciding. Not here: looking at the machine (machine.py), the text of the files (settings_files.py), writing them
(writing.py).
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from portway_geo.position import Position
from portway_runtime.address_scopes import Scope, scope_of
from portway_runtime.endpoints import Endpoint

from portway_server.errors import SetupRefused
from portway_server.ports import Holder, Wanted, conflicts
from portway_server.wishes import Wishes

_METRICS: Final = range(9100, 9900)


@dataclass(frozen=True, slots=True)
class Found:
    """What this machine is.

    addresses: those by which it reaches the Internet.
    own: those of the addresses asked for that are its own, so that it can listen at them.
    position: of its first global address, if GeoIP knows it.
    suffix: what tells it apart from other machines.
    """

    addresses: tuple[str, ...]
    own: tuple[str, ...]
    ipv6: bool
    position: Position | None
    suffix: str
    holders: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A machine that can be set up.

    wishes: as asked for, with a name and a position.
    public: its public addresses, at least one. dns_listen: where it answers DNS; empty if it does not.
    any_address: "[::]", or "0.0.0.0" without IPv6. metrics: the ports of loopback for those of the relay node and of
    the registry. notes: what its operator should know.
    """

    wishes: Wishes
    public: tuple[str, ...]
    dns_listen: tuple[str, ...]
    any_address: str
    metrics: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def advertise(self) -> str:
        """Where clients reach the node."""
        return str(Endpoint(self.public[0], self.wishes.ports.public))

    @property
    def is_private(self) -> bool:
        """Whether other networks do not reach it by an address of its own."""
        return any(scope_of(address) is not Scope.GLOBAL for address in self.public)


def plan(wishes: Wishes, found: Found) -> Plan:
    """Decide. Raises SetupRefused, with all that stands in the way."""
    public = wishes.addresses or found.addresses
    if not public:
        raise SetupRefused(
            "this machine has no default route, so that its public address cannot be found: give it with "
            "--public-address"
        )
    for address in public:
        _demand_address(address)
    own = found.own if wishes.addresses and found.own else found.addresses or public
    dns = tuple(str(Endpoint(address, wishes.ports.dns)) for address in own) if wishes.dns else ()
    taken = conflicts(_wanted(wishes, own), found.holders)
    if taken:
        advice = (
            "stop these programs, or have them listen elsewhere; what serves websites can stand behind a tunnel, or on "
            "another machine"
        )
        raise SetupRefused("\n".join([*taken, advice]))
    notes = _notes(wishes, found, public)
    named = wishes.name or f"{wishes.region}-{found.suffix}"
    where = found.position if wishes.latitude is None else None
    placed = replace(wishes, name=named)
    if where is not None:
        placed = replace(placed, latitude=where.latitude, longitude=where.longitude)
    return Plan(placed, tuple(public), dns, "[::]" if found.ipv6 else "0.0.0.0", _free(found), tuple(notes))


def parent_records(domain: str, server: str, addresses: Sequence[str]) -> list[str]:
    """The records to add at the parent zone, as its zone file would have them: NS, and the address of the server."""
    width = max(len(domain), len(server)) + 1
    told = [f"{domain + '.':<{width}}  NS    {server}."]
    for address in addresses:
        told.append(f"{server + '.':<{width}}  {'AAAA' if ':' in address else 'A':<4}  {address}")
    return told


def _demand_address(address: str) -> None:
    try:
        scope = scope_of(address)
    except ValueError:
        raise SetupRefused(f"--public-address {address!r} is not an IP address") from None
    if scope in (Scope.LOOPBACK, Scope.LINK_LOCAL) and not ipaddress.ip_address(address).is_loopback:
        raise SetupRefused(f"--public-address {address}: other machines cannot reach it")


def _wanted(wishes: Wishes, own: Sequence[str]) -> list[Wanted]:
    ports = wishes.ports
    wanted = [Wanted("tcp", "", ports.public, "visitors and clients")]
    if ports.public == 443:
        wanted.append(Wanted("tcp", "", 80, "redirects to https"))
    if wishes.dns:
        wanted += [Wanted(protocol, address, ports.dns, "DNS") for address in own for protocol in ("udp", "tcp")]
    if wishes.registry:
        wanted.append(Wanted("tcp", "", ports.registry, "the registry, for clients and operators"))
        wanted.append(Wanted("tcp", "", ports.mesh, "the registry, for nodes"))
    return wanted


def _free(found: Found) -> tuple[int, int]:
    """Two ports of loopback; Prometheus's node_exporter may have the first one."""
    taken = {holder.port for holder in found.holders if holder.protocol == "tcp"}
    first, second, *_ = (port for port in _METRICS if port not in taken)
    return first, second


def _notes(wishes: Wishes, found: Found, public: Sequence[str]) -> list[str]:
    notes = []
    hidden = [address for address in public if scope_of(address) is not Scope.GLOBAL]
    if hidden:
        notes.append(
            f"{' and '.join(hidden)} {'is' if len(hidden) == 1 else 'are'} private: only machines of the same network "
            "reach this one. If your provider maps a public address to it, run this again with --public-address"
        )
    if wishes.registry and not wishes.dns and not wishes.certificates:
        notes.append(
            f"this node does not answer DNS for {wishes.domain} (--no-dns): no certificate can be obtained unless one "
            "of another machine does. Or give certificates from elsewhere, with --tls-cert and --tls-key"
        )
    if found.position is None and wishes.latitude is None:
        notes.append(
            "the position of this machine is not known, so that clients are not sent to it by distance: give "
            "--latitude and --longitude"
        )
    return notes
