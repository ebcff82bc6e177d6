"""What the zone above a domain says of it: asked of its servers, past every cache.

Here: the question and its answer. Not here: the domain's own servers (name_servers.py), what is wrong.
"""

import ipaddress
from dataclasses import dataclass
from typing import Final

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver

from portway_registry.doctor.resolver import Resolver, reason

PORT: Final = 53
_ANSWER_LIMIT: Final = 2.0  # seconds
_ADDRESSES_ASKED: Final = 4
# What asking raises: time-outs, refusals and unusable answers of servers, and the system's errors.
_FAILURES: Final = (dns.exception.DNSException, OSError, EOFError)


@dataclass(frozen=True, slots=True)
class Referral:
    """What the servers of the zone above say.

    parent: the zone; "" if it cannot be found. failure: why nothing is known; "" if something is.
    servers: the names that the domain is delegated to, and their addresses: those that the zone above gives, or, for
    names that are not below the domain, what they resolve to. Empty for a domain that is not delegated.
    """

    parent: str = ""
    failure: str = ""
    servers: tuple[tuple[str, tuple[str, ...]], ...] = ()


async def ask_above(domain: str, resolver: Resolver, *, port: int = PORT) -> Referral:
    """Ask the servers of the zone above, one after the other until one answers. `resolver` finds them; `port` is that
    of all name servers."""
    name = dns.name.from_text(domain)
    try:
        zone, servers = await _zone_above(name, resolver)
    except _FAILURES as error:
        return Referral(failure=f"its parent zone is not found: {reason(error)}")
    parent, asked = plain(zone.to_text()), 0
    failure = f"the servers of the zone {parent} have no address"
    for server in servers:
        for address in (await resolver.addresses(plain(server))).all[: _ADDRESSES_ASKED - asked]:
            asked += 1
            try:
                answer = await _ask(name, address, port)
            except _FAILURES as error:
                failure = (
                    f"{plain(server)} ({address}), a server of the zone {parent}, does not answer: {reason(error)}"
                )
                continue
            return Referral(parent, servers=await _servers_in(answer, name, resolver))
    return Referral(parent, failure)


async def _zone_above(domain: dns.name.Name, resolver: Resolver) -> tuple[dns.name.Name, tuple[str, ...]]:
    """The zone that the domain is in, and the names of its servers. Raises DNSException."""
    name = domain
    while name != dns.name.root:
        name = name.parent()
        try:
            if servers := await resolver.texts(name.to_text(), "NS"):
                return name, servers
        except dns.resolver.NXDOMAIN:
            continue
    raise dns.resolver.NoAnswer


async def _ask(domain: dns.name.Name, address: str, port: int) -> dns.message.Message:
    """The answer of one server, which is asked for what it knows itself. Raises one of _FAILURES."""
    question = dns.message.make_query(domain, dns.rdatatype.NS, use_edns=True, payload=1232)
    question.flags &= ~dns.flags.RD
    answer, _ = await dns.asyncquery.udp_with_fallback(question, address, _ANSWER_LIMIT, port)
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise OSError(f"it says {dns.rcode.to_text(answer.rcode())}")
    if not answer.flags & dns.flags.AA and not _names_in(answer, domain):
        raise OSError("it does not serve that zone")
    return answer


async def _servers_in(
    answer: dns.message.Message, domain: dns.name.Name, resolver: Resolver
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found = {}
    for target in _names_in(answer, domain):
        name = plain(target.to_text())
        addresses = {
            str(ipaddress.ip_address(record.address))
            for rrset in (*answer.additional, *answer.answer)
            if rrset.name == target and rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
            for record in rrset
        }
        if not addresses and not target.is_subdomain(domain):
            addresses |= set((await resolver.addresses(name)).all)
        found[name] = tuple(sorted(addresses))
    return tuple(sorted(found.items()))


def _names_in(answer: dns.message.Message, domain: dns.name.Name) -> set[dns.name.Name]:
    """The servers of the domain that an answer names."""
    return {
        record.target
        for rrset in (*answer.authority, *answer.answer)
        if rrset.name == domain and rrset.rdtype == dns.rdatatype.NS
        for record in rrset
    }


def plain(name: str) -> str:
    """Without the final dot, in lower case; the root is "."."""
    return name.lower().rstrip(".") or "."
