"""Name servers on loopback, each at an address of its own and all at one port, that answer from a table.

Here: UDP and TCP, answers with wildcards, referrals, refusals. Not here: a real resolver, which follows referrals.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Self, cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

_TTL: Final = 30
_LENGTH: Final = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class Zone:
    """What one server answers. records: by name, `TYPE data`. referral: the name whose NS records it answers in the
    authority section, with their addresses. refuses: everything is REFUSED. tcp: whether it listens for TCP."""

    records: Mapping[str, Sequence[str]]
    authoritative: bool = True
    referral: str = ""
    refuses: bool = False
    tcp: bool = True

    def answer(self, wire: bytes) -> bytes:
        """The answer to a question, both in wire form."""
        asked = dns.message.from_wire(wire)
        answer = dns.message.make_response(asked, recursion_available=True)
        name, kind = asked.question[0].name, asked.question[0].rdtype
        if self.refuses:
            answer.set_rcode(dns.rcode.REFUSED)
        elif self.referral and name == dns.name.from_text(self.referral):
            answer.authority += self._sets(name, name, dns.rdatatype.NS)
            for record in (one for rrset in answer.authority for one in rrset):
                answer.additional += self._sets(record.target, record.target, dns.rdatatype.A)
        else:
            if self.authoritative:
                answer.flags |= dns.flags.AA
            known = self._known(name)
            if known is not None:
                answer.answer += self._sets(known, name, kind)
            elif not any(dns.name.from_text(one).is_subdomain(name) for one in self.records):
                answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer.to_wire()

    def _known(self, name: dns.name.Name) -> dns.name.Name | None:
        """The name in the table that answers for a name: itself, or a wildcard above."""
        names = {dns.name.from_text(one) for one in self.records}
        if name in names:
            return name
        wildcard = dns.name.Name((b"*", *name.labels[1:])) if len(name) > 1 else name
        return wildcard if wildcard in names else None

    def _sets(self, known: dns.name.Name, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> list[dns.rrset.RRset]:
        records = self.records.get(known.to_text(omit_final_dot=True), ())
        texts = [one.partition(" ")[2] for one in records if one.startswith(f"{dns.rdatatype.to_text(kind)} ")]
        if not texts:
            return []
        return [dns.rrset.from_text(name, _TTL, dns.rdataclass.IN, kind, *texts)]


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(self._zone.answer(data), addr)


class NameServers:
    """`async with NameServers({address: zone}) as servers:` serves each zone at its address, at `servers.port`."""

    def __init__(self, zones: Mapping[str, Zone]) -> None:
        self._zones = zones
        self._transports: list[asyncio.BaseTransport] = []
        self._servers: list[asyncio.Server] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        sockets = self._bind()
        loop = asyncio.get_running_loop()
        for zone, udp, tcp in sockets:
            transport, _ = await loop.create_datagram_endpoint(partial(_Datagrams, zone), sock=udp)
            self._transports.append(transport)
            if zone.tcp:
                self._servers.append(await asyncio.start_server(_serve(zone), sock=tcp))
            else:
                tcp.close()
        return self

    async def __aexit__(self, *_: object) -> None:
        for transport in self._transports:
            transport.close()
        for server in self._servers:
            server.close()
            await server.wait_closed()

    def _bind(self) -> list[tuple[Zone, socket.socket, socket.socket]]:
        """Sockets at one port that is free at every address, for UDP and TCP."""
        while True:
            bound: list[tuple[Zone, socket.socket, socket.socket]] = []
            self.port = 0
            try:
                for address, zone in self._zones.items():
                    udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
                    bound.append((zone, udp, tcp))
                    udp.bind((address, self.port))
                    self.port = udp.getsockname()[1]
                    tcp.bind((address, self.port))
            except OSError:
                for _, udp, tcp in bound:
                    udp.close()
                    tcp.close()
            else:
                return bound


def _serve(zone: Zone) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            answer = zone.answer(await reader.readexactly(length))
            writer.write(_LENGTH.pack(len(answer)) + answer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return serve
