"""The name servers of a domain, asked one by one: what the parent zone says of them, and what they answer themselves.

Here: the questions and their answers. Not here: what is wrong with them (names.py).
"""

import asyncio
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
from portway_runtime.endpoints import Endpoint

from portway_registry.doctor.resolver import Resolver, reason

PORT: Final = 53
_ANSWER_LIMIT: Final = 3.0  # seconds
_PARENTS_ASKED: Final = 2


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """What a name server said at one address over one transport, `udp` or `tcp`, asked for the domain's SOA."""

    at: Endpoint
    transport: str
    failure: str = ""
    authoritative: bool = False
    serial: int = 0


@dataclass(frozen=True, slots=True)
class NameServer:
    """glue: its addresses in the parent's referral; None for one whose name is not below the domain, and needs none.
    addresses: what its name resolves to."""

    name: str
    glue: frozenset[str] | None
    addresses: tuple[str, ...]
    failure: str
    answers: tuple[ServerAnswer, ...]


@dataclass(frozen=True, slots=True)
class Delegation:
    """How a domain is delegated. cut: the zone that it is in, which is the domain itself when it is delegated. failure:
    why that is not known. at_parent, own: the names of its servers by the parent and by the domain; at_parent is None
    when no server of the parent was reached."""

    cut: str
    failure: str = ""
    at_parent: frozenset[str] | None = None
    own: frozenset[str] = frozenset()
    servers: tuple[NameServer, ...] = ()


async def look_at_delegation(domain: str, resolver: Resolver, *, port: int = PORT) -> Delegation:
    """Ask the resolver, the parent's servers and the domain's own. `port` is that of all name servers."""
    name = dns.name.from_text(domain)
    try:
        cut = await _zone_of(name, resolver)
        if cut != name:
            return Delegation(_text(cut))
        referral = await _referral(name, await _zone_of(name.parent(), resolver), resolver, port)
        own = frozenset(map(_plain, await resolver.texts(domain, "NS")))
    except dns.exception.DNSException as error:
        return Delegation("", reason(error))
    names = sorted(own | (referral.keys() if referral is not None else set()))
    servers = await asyncio.gather(*(_server(domain, one, referral, resolver, port) for one in names))
    at_parent = None if referral is None else frozenset(referral)
    return Delegation(domain, "", at_parent, own, tuple(servers))


async def _zone_of(name: dns.name.Name, resolver: Resolver) -> dns.name.Name:
    return await dns.asyncresolver.zone_for_name(name, resolver=resolver.questions)


async def _referral(
    domain: dns.name.Name, parent: dns.name.Name, resolver: Resolver, port: int
) -> dict[str, frozenset[str]] | None:
    """The domain's servers and their addresses as a server of the parent zone says them; None without an answer."""
    question = dns.message.make_query(domain, dns.rdatatype.NS, use_edns=True, payload=1232)
    question.flags &= ~dns.flags.RD
    asked = 0
    for server in await resolver.texts(_text(parent), "NS"):
        for address in (await resolver.addresses(_plain(server))).all:
            if asked == _PARENTS_ASKED:
                return None
            asked += 1
            try:
                answer, _ = await dns.asyncquery.udp_with_fallback(question, address, _ANSWER_LIMIT, port)
            except (dns.exception.DNSException, OSError):
                continue
            found = _servers_in(answer, domain)
            if found:
                return found
    return None


def _servers_in(answer: dns.message.Message, domain: dns.name.Name) -> dict[str, frozenset[str]]:
    names = [
        _plain(record.to_text())
        for rrset in (*answer.authority, *answer.answer)
        if rrset.name == domain and rrset.rdtype == dns.rdatatype.NS
        for record in rrset
    ]
    return {
        one: frozenset(
            _address(record.to_text())
            for rrset in (*answer.additional, *answer.answer)
            if _text(rrset.name) == one and rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
            for record in rrset
        )
        for one in names
    }


async def _server(
    domain: str, name: str, referral: dict[str, frozenset[str]] | None, resolver: Resolver, port: int
) -> NameServer:
    found = await resolver.addresses(name)
    is_below = name == domain or name.endswith(f".{domain}")
    glue = referral.get(name) if referral is not None and is_below else None
    every = sorted({*found.all, *(glue or ())})
    answers = await asyncio.gather(
        *(_ask(domain, Endpoint(address, port), transport) for address in every for transport in ("udp", "tcp"))
    )
    return NameServer(name, glue, tuple(sorted(map(_address, found.all))), found.failure, tuple(answers))


async def _ask(domain: str, at: Endpoint, transport: str) -> ServerAnswer:
    question = dns.message.make_query(domain, dns.rdatatype.SOA, use_edns=True, payload=1232)
    question.flags &= ~dns.flags.RD
    ask = dns.asyncquery.udp if transport == "udp" else dns.asyncquery.tcp
    try:
        answer = await ask(question, at.host, _ANSWER_LIMIT, at.port)
    except dns.exception.Timeout:
        return ServerAnswer(at, transport, f"no answer within {_ANSWER_LIMIT:g} s")
    except (dns.exception.DNSException, OSError, EOFError) as error:
        return ServerAnswer(at, transport, str(error) or type(error).__name__)
    if answer.rcode() != dns.rcode.NOERROR:
        return ServerAnswer(at, transport, f"it answers {dns.rcode.to_text(answer.rcode())}")
    serials = [record.serial for rrset in answer.answer if rrset.rdtype == dns.rdatatype.SOA for record in rrset]
    is_own = bool(answer.flags & dns.flags.AA) and bool(serials)
    return ServerAnswer(at, transport, authoritative=is_own, serial=max(serials, default=0))


def _text(name: dns.name.Name) -> str:
    return _plain(name.to_text())


def _plain(name: str) -> str:
    """Without the final dot, in lower case; the root is "."."""
    return name.lower().rstrip(".") or "."


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def refused_by(answers: Iterable[ServerAnswer], transport: str) -> list[ServerAnswer]:
    """The answers over this transport that failed."""
    return [one for one in answers if one.transport == transport and one.failure]
