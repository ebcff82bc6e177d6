"""The cluster's name servers, as this machine's own server for the domain says.

Here: asking it. Not here: what the zone above says, and what follows (delegation.py).
"""

from collections.abc import Sequence
from typing import Any, Final

import dns.asyncquery
import dns.exception
import dns.message
from portway_runtime.endpoints import Endpoint

from portway_server.registry_calls import loopback

_ANSWERED_WITHIN: Final = 5.0


async def own_servers(domain: str, listening: Sequence[Endpoint]) -> list[tuple[str, tuple[str, ...]]]:
    """The name servers of the domain and their addresses; none if this machine's server does not answer, or knows none
    yet. `listening`: where it listens."""
    for at in listening[:1]:
        try:
            names = [one.target.to_text(omit_final_dot=True) for one in await _records_of(domain, "NS", at)]
            found = []
            for name in sorted(names):
                records = [*await _records_of(name, "A", at), *await _records_of(name, "AAAA", at)]
                found.append((name, tuple(one.address for one in records)))
            return found
        except (dns.exception.DNSException, OSError):
            continue
    return []


async def _records_of(name: str, kind: str, at: Endpoint) -> list[Any]:
    query = dns.message.make_query(name, kind)
    here = loopback(at)
    answer = await dns.asyncquery.udp(query, here.host, port=here.port, timeout=_ANSWERED_WITHIN)
    return [one for rrset in answer.answer if rrset.rdtype == query.question[0].rdtype for one in rrset]
