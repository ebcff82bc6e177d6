"""Whether the domain is delegated to the cluster: what follows from what the zone above says, and waiting for it.

Here: judging. Not here: asking (portway_registry.doctor.delegation), the answers of the cluster's own servers.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from portway_registry.doctor.delegation import Referral, ask_above
from portway_registry.doctor.resolver import Resolver
from portway_runtime.backoff import Backoff
from portway_runtime.endpoints import Endpoint

logger = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 4.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the delegation leads to the cluster, and what to tell about it."""

    good: bool
    text: str


def judge(domain: str, own: Sequence[str], seen: Referral) -> Verdict:
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


async def await_delegation(domain: str, own: Sequence[str], resolvers: Sequence[Endpoint]) -> None:
    """Return once the domain is delegated to one of these addresses; until then log what is seen, each time that it is
    something else."""
    pauses, told = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE), ""
    while True:
        verdict = judge(domain, own, await ask_above(domain, Resolver(resolvers)))
        if verdict.good:
            logger.info("%s", verdict.text)
            return
        if verdict.text != told:
            told = verdict.text
            logger.warning("waiting: %s", verdict.text)
        await asyncio.sleep(pauses.next())
