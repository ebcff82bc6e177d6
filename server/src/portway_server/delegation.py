"""Whether the domain is delegated to the cluster: what the parent zone's servers say, and what follows from it.

Here: asking them, and judging. Not here: the answers of the cluster's own servers.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.rcode
import dns.rdatatype
import dns.resolver
from portway_runtime.backoff import Backoff
from portway_runtime.endpoints import Endpoint

logger = logging.getLogger(__name__)

_ANSWERED_WITHIN: Final = 3.0
_LOOKED_UP_WITHIN: Final = 6.0
_SERVERS_ASKED: Final = 4
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 4.0
# What asking raises: time-outs, refusals and unusable answers of servers, and the system's errors.
_FAILURES: Final = (dns.exception.DNSException, OSError, EOFError)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the servers of the parent zone say.

    parent: the zone; "" if it cannot be found. failure: why nothing is known; "" if something is.
    servers: the names that the domain is delegated to, and their addresses as far as they are known.
    """

    parent: str = ""
    failure: str = ""
    servers: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the delegation leads to the cluster, and what to tell about it."""

    good: bool
    text: str


def judge(domain: str, own: Sequence[str], seen: Seen) -> Verdict:
    """own: addresses of this cluster's servers, of which one has to be led to."""
    if seen.failure:
        return Verdict(False, f"the delegation of {domain} cannot be seen: {seen.failure}")
    if not seen.servers:
        return Verdict(
            False,
            f"the zone {seen.parent or '.'} does not delegate {domain} yet: add the NS record and the server's address "
            "that `portway-server init` printed (`portway-server status` prints them again)",
        )
    led = {address for _, addresses in seen.servers for address in addresses}
    named = ", ".join(f"{name} ({', '.join(addresses) or 'no address'})" for name, addresses in seen.servers)
    if not led & set(own):
        return Verdict(
            False,
            f"the zone {seen.parent or '.'} delegates {domain} to {named}, and none of it is {' or '.join(own)}, the "
            "address of this machine: correct the records there",
        )
    return Verdict(True, f"{domain} is delegated to {named}")


async def look(domain: str, resolvers: Sequence[Endpoint]) -> Seen:
    """Ask the parent zone's servers, which is not cached. `resolvers`: those that find them; the system's if there are
    none."""
    try:
        resolver = _resolver(resolvers)
        parent, names = await _parent(domain, resolver)
    except _FAILURES as error:
        return Seen(failure=f"its parent zone is not found: {_text(error)}")
    shown = parent.to_text(omit_final_dot=True)
    failure = "its parent zone's servers have no address"
    for name in names[:_SERVERS_ASKED]:
        for address in await _addresses(name, resolver):
            try:
                referral = await _ask(domain, address)
            except _FAILURES as error:
                failure = f"{name} ({address}), a server of the zone {shown}, does not answer: {_text(error)}"
                continue
            return Seen(shown, servers=await _servers(domain, referral, resolver))
    return Seen(shown, failure)


async def await_delegation(
    domain: str, own: Callable[[], Awaitable[Sequence[str]]], resolvers: Sequence[Endpoint]
) -> bool:
    """Return once the domain is delegated to one of the cluster's addresses, which `own` knows at each look; until then
    log what is seen, each time that it is something else. Whether it was waited for."""
    pauses, told = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE), ""
    while True:
        seen = await look(domain, resolvers)
        verdict = judge(domain, await own(), seen)
        if verdict.good:
            logger.info("%s", verdict.text)
            return bool(told)
        if verdict.text != told:
            told = verdict.text
            logger.warning("waiting: %s", verdict.text)
        await asyncio.sleep(pauses.next())


def _resolver(resolvers: Sequence[Endpoint]) -> dns.asyncresolver.Resolver:
    """Raises DNSException where the system names no resolver."""
    made = dns.asyncresolver.Resolver(configure=not resolvers)
    if resolvers:
        made.nameservers = [dns.nameserver.Do53Nameserver(one.host, one.port) for one in resolvers]
    made.lifetime = _LOOKED_UP_WITHIN
    made.cache = None
    return made


async def _parent(domain: str, resolver: dns.asyncresolver.Resolver) -> tuple[dns.name.Name, list[str]]:
    """The zone that the domain is in, and the names of its servers. Raises DNSException."""
    name = dns.name.from_text(domain).parent()
    while True:
        try:
            answer = await resolver.resolve(name, "NS")
            return name, sorted(one.target.to_text() for one in answer)
        except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
            if name == dns.name.root:
                raise
            name = name.parent()


async def _addresses(name: str, resolver: dns.asyncresolver.Resolver) -> list[str]:
    found = []
    for kind in ("A", "AAAA"):
        try:
            found += [one.address for one in await resolver.resolve(name, kind)]
        except _FAILURES:
            continue
    return found


async def _ask(domain: str, address: str) -> dns.message.Message:
    """The answer of one server, which is asked for what it knows itself. Raises one of _FAILURES."""
    query = dns.message.make_query(domain, "NS", use_edns=0)
    query.flags &= ~dns.flags.RD
    answer, _ = await dns.asyncquery.udp_with_fallback(query, address, timeout=_ANSWERED_WITHIN)
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise OSError(f"it says {dns.rcode.to_text(answer.rcode())}")
    return answer


async def _servers(
    domain: str, referral: dns.message.Message, resolver: dns.asyncresolver.Resolver
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The servers in a referral, with the addresses that come with it; those of other domains are looked up."""
    wanted = dns.name.from_text(domain)
    found = []
    for rrset in (*referral.answer, *referral.authority):
        if rrset.name == wanted and rrset.rdtype == dns.rdatatype.NS:
            for one in rrset:
                glue = [
                    record.address
                    for extra in referral.additional
                    if extra.name == one.target and extra.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
                    for record in extra
                ]
                if not glue and not one.target.is_subdomain(wanted):
                    glue = await _addresses(one.target.to_text(), resolver)
                found.append((one.target.to_text(omit_final_dot=True), tuple(glue)))
    return tuple(sorted(found))


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
