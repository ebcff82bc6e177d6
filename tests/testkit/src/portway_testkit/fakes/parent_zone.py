"""Program: the zone above a cluster's domain, and a resolver that follows its delegation; both on one address.

usage: parent_zone.py ADDRESS PARENT DOMAIN SERVER-ADDRESS SWITCH

A query without recursion is answered as the parent's server does: while the file SWITCH exists by a referral to
`ns1.DOMAIN`, with its address, else by NXDOMAIN. One with recursion is answered as a resolver does: names of the domain
by the server at SERVER-ADDRESS, which has to be delegated to. It prints a line once it answers.
"""

import contextlib
import socket
import sys
import threading
from pathlib import Path
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset

_PORT: Final = 53
_TTL: Final = 60
_LARGEST: Final = 4096
_TIMEOUT: Final = 3.0


class ParentZone:
    """What is answered."""

    def __init__(self, address: str, parent: str, domain: str, server: str, switch: Path) -> None:
        self._address = address
        self._parent = dns.name.from_text(parent)
        self._domain = dns.name.from_text(domain)
        self._own_name = dns.name.from_text("ns", self._parent)
        self._delegated_to = dns.name.from_text("ns1", self._domain)
        self._server = server
        self._switch = switch

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        """The response to a query."""
        response = dns.message.make_response(query)
        name, kind = query.question[0].name, query.question[0].rdtype
        if name.is_subdomain(self._domain):
            if not self._switch.exists():
                response.set_rcode(dns.rcode.NXDOMAIN)
                response.flags |= dns.flags.AA
            elif query.flags & dns.flags.RD:
                return self._resolved(query, response)
            else:
                response.authority.append(_record(self._domain, "NS", self._delegated_to.to_text()))
                response.additional.append(_record(self._delegated_to, "A", self._server))
        elif name == self._parent and kind == dns.rdatatype.NS:
            response.answer.append(_record(name, "NS", self._own_name.to_text()))
        elif name == self._own_name and kind == dns.rdatatype.A:
            response.answer.append(_record(name, "A", self._address))
        elif name != self._own_name:
            response.set_rcode(dns.rcode.NXDOMAIN)
        response.flags |= dns.flags.RA
        return response

    def _resolved(self, query: dns.message.Message, response: dns.message.Message) -> dns.message.Message:
        asked = dns.message.make_query(query.question[0].name, query.question[0].rdtype)
        asked.flags &= ~dns.flags.RD
        try:
            found, _ = dns.query.udp_with_fallback(asked, self._server, timeout=_TIMEOUT)
        except (dns.exception.DNSException, OSError):
            response.set_rcode(dns.rcode.SERVFAIL)
            return response
        response.answer, response.authority = found.answer, found.authority
        response.set_rcode(found.rcode())
        response.flags |= dns.flags.RA
        return response


def _record(name: dns.name.Name, kind: str, data: str) -> dns.rrset.RRset:
    return dns.rrset.from_text(name, _TTL, "IN", kind, data)


def _serve_udp(zone: ParentZone, sock: socket.socket) -> None:
    def respond(data: bytes, source: tuple[str, int]) -> None:
        with contextlib.suppress(dns.exception.DNSException, OSError):
            sock.sendto(zone.answer(dns.message.from_wire(data)).to_wire(), source)

    while True:
        data, source = sock.recvfrom(_LARGEST)
        threading.Thread(target=respond, args=(data, source), daemon=True).start()


def _serve_tcp(zone: ParentZone, listening: socket.socket) -> None:
    def respond(connection: socket.socket) -> None:
        with connection, contextlib.suppress(dns.exception.DNSException, OSError, EOFError):
            query, _ = dns.query.receive_tcp(connection)
            dns.query.send_tcp(connection, zone.answer(query))

    while True:
        threading.Thread(target=respond, args=(listening.accept()[0],), daemon=True).start()


def main() -> None:
    """Answer until a signal."""
    address, parent, domain, server, switch = sys.argv[1:]
    zone = ParentZone(address, parent, domain, server, Path(switch))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((address, _PORT))
    tcp = socket.create_server((address, _PORT))
    threading.Thread(target=_serve_tcp, args=(zone, tcp), daemon=True).start()
    print("answers", flush=True)
    _serve_udp(zone, udp)


if __name__ == "__main__":
    main()
