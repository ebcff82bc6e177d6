"""The name servers of a domain, asked one by one: what they answer themselves.

Here: the questions and their answers. Not here: what the zone above says of them (delegation.py), what is wrong with
them (names.py).
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

from portway_registry.doctor.delegation import PORT, ask_above, plain
from portway_registry.doctor.resolver import Resolver, reason

_ANSWER_LIMIT: Final = 3.0  # seconds


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
    when no server of the parent was reached, own is empty when none of the domain was."""

    cut: str
    failure: str = ""
    at_parent: frozenset[str] | None = None
    own: frozenset[str] = frozenset()
    servers: tuple[NameServer, ...] = ()


async def look_at_delegation(domain: str, resolver: Resolver, *, port: int = PORT) -> Delegation:
    """Ask the parent's servers, the resolver and the domain's own. `port` is that of all name servers."""
    above = await ask_above(domain, resolver, port=port)
    referral = None if above.failure else {name: frozenset(addresses) for name, addresses in above.servers}
    if referral == {}:
        return Delegation(above.parent)
    name, own = dns.name.from_text(domain), frozenset[str]()
    try:
        if (
            referral is None
            and (cut := await dns.asyncresolver.zone_for_name(name, resolver=resolver.questions)) != name
        ):
            return Delegation(plain(cut.to_text()))
        own = frozenset(map(plain, await resolver.texts(domain, "NS")))
    except dns.exception.DNSException as error:
        if referral is None:
            return Delegation("", reason(error))
    names = sorted(own | (referral.keys() if referral is not None else set()))
    servers = await asyncio.gather(*(_server(domain, one, referral, resolver, port) for one in names))
    at_parent = None if referral is None else frozenset(referral)
    return Delegation(domain, "", at_parent, own, tuple(servers))


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


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def refused_by(answers: Iterable[ServerAnswer], transport: str) -> list[ServerAnswer]:
    """The answers over this transport that failed."""
    return [one for one in answers if one.transport == transport and one.failure]
