"""Names as a stranger's resolver, or this machine, resolves them.

Here: questions, with time limits. Not here: which names, and what is wrong with an answer (names.py).
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.resolver
from portway_proto.v1.types_pb2 import NodeInfo
from portway_runtime.endpoints import Endpoint

_QUESTION_LIMIT: Final = 4.0  # seconds for one question, over all servers of the resolver
_WITHOUT_CONFIGURATION: Final = "127.0.0.1"  # where a resolver is by resolv.conf(5) without one


@dataclass(frozen=True, slots=True)
class Addresses:
    """What a name resolves to; with neither, `failure` says why."""

    name: str
    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()
    failure: str = ""

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.ipv4, *self.ipv6)


class Resolver:
    """Those at some addresses, one after the other, or this machine's."""

    def __init__(self, servers: Sequence[Endpoint] = ()) -> None:
        """None given: names are looked up as every program on this machine does. Raises ValueError for one that is a
        name."""
        self.is_given = bool(servers)
        try:
            self.questions = dns.asyncresolver.Resolver(configure=not servers)
        except dns.resolver.NoResolverConfiguration:
            self.questions = dns.asyncresolver.Resolver(configure=False)
            self.questions.nameservers = [_WITHOUT_CONFIGURATION]
        if servers:
            self.questions.nameservers = [
                dns.nameserver.Do53Nameserver(str(ipaddress.ip_address(one.host)), one.port) for one in servers
            ]
        self.questions.lifetime = _QUESTION_LIMIT

    async def addresses(self, host: str) -> Addresses:
        """Both families of a name; an IP address is itself."""
        literal = host.strip("[]")
        try:
            family = ipaddress.ip_address(literal).version
        except ValueError:
            return await (self._asked(host) if self.is_given else _looked_up(host))
        return Addresses(host, ipv4=(literal,)) if family == 4 else Addresses(host, ipv6=(literal,))

    async def of_node(self, node: NodeInfo) -> Addresses:
        """Where a node is reached: what the host that it advertises resolves to, and its public addresses."""
        found = await self.addresses(node.host)
        public = [ipaddress.ip_address(one) for one in node.addresses]
        ipv4 = {*found.ipv4, *(str(one) for one in public if one.version == 4)}
        ipv6 = {*found.ipv6, *(str(one) for one in public if one.version == 6)}
        return Addresses(node.host, tuple(sorted(ipv4)), tuple(sorted(ipv6)), "" if ipv4 or ipv6 else found.failure)

    async def texts(self, name: str, kind: str) -> tuple[str, ...]:
        """The records of a name and a type, as text; sorted. Raises dns.exception.DNSException."""
        answer = await self.questions.resolve(name, kind, raise_on_no_answer=False)
        return tuple(sorted(record.to_text() for record in answer.rrset or ()))

    async def _asked(self, host: str) -> Addresses:
        results = await asyncio.gather(self.texts(host, "A"), self.texts(host, "AAAA"), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if not isinstance(failure, dns.exception.DNSException):
                raise failure
        ipv4, ipv6 = (() if isinstance(result, BaseException) else result for result in results)
        if ipv4 or ipv6:
            return Addresses(host, ipv4, ipv6)
        told = [reason(failure) for failure in failures if isinstance(failure, dns.exception.DNSException)]
        return Addresses(host, failure=told[0] if told else "it has no address")


async def _looked_up(host: str) -> Addresses:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_QUESTION_LIMIT):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        return Addresses(host, failure=f"no answer within {_QUESTION_LIMIT:g} s")
    except (OSError, UnicodeError) as error:
        return Addresses(host, failure=getattr(error, "strerror", "") or str(error))
    by_family = {family: sorted({str(at[0]) for kind, *_, at in found if kind == family}) for family in _FAMILIES}
    return Addresses(host, tuple(by_family[socket.AF_INET]), tuple(by_family[socket.AF_INET6]))


_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


def reason(error: Exception) -> str:
    """Why a question was not answered, for people: a line."""
    if isinstance(error, dns.resolver.NXDOMAIN):
        return "the name does not exist (NXDOMAIN)"
    if isinstance(error, dns.resolver.LifetimeTimeout | dns.exception.Timeout):
        return "no answer in time"
    if isinstance(error, dns.resolver.NoNameservers):
        return "its name servers fail (SERVFAIL)"
    return " ".join(str(error).split()) or type(error).__name__
