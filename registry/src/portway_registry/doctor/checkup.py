"""All checks of a cluster. Here: which there are, and what each is given. Not here: how they run (check.py)."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from portway_runtime.endpoints import Endpoint, is_dns_name

from portway_registry.doctor.certificates import judge_certificates
from portway_registry.doctor.check import Check
from portway_registry.doctor.clients import attach, judge_clients
from portway_registry.doctor.clocks import judge_clocks
from portway_registry.doctor.delegation import PORT
from portway_registry.doctor.facts import ClusterFacts
from portway_registry.doctor.finding import Finding, Severity
from portway_registry.doctor.links import judge_links
from portway_registry.doctor.names import judge_names, look_up
from portway_registry.doctor.nodes import judge_nodes
from portway_registry.doctor.resolver import Resolver
from portway_registry.doctor.store import judge_store
from portway_registry.doctor.units import at_either
from portway_registry.doctor.upkeep import judge_suffix, judge_upkeep
from portway_registry.doctor.versions import judge_versions
from portway_registry.doctor.visitors import judge_visitors, meet


@dataclass(frozen=True, slots=True)
class Surroundings:
    """From where the checks look: the registries as this command names them (none through a proxy), the CA file's
    content, the resolver, the port of name servers, and this command's release."""

    registries: Sequence[Endpoint]
    ca: bytes | None
    resolver: Resolver
    release: str
    name_server_port: int = PORT


def checks_of(facts: ClusterFacts | None, domain: str, around: Surroundings) -> list[Check]:
    """facts: None when no registry answered; `domain` is what is known then, "" for nothing."""
    if facts is None:
        known = ClusterFacts(None, (), (), (), time.time_ns() // 1_000_000, 0.0, domain)
        return [_names(known, around), _clients(known, around)]
    return [
        _judged("clocks", lambda: judge_clocks(facts)),
        _judged("versions", lambda: judge_versions(facts, around.release)),
        _judged("store", lambda: judge_store(facts)),
        _judged("certificates", lambda: judge_certificates(facts)),
        _judged("nodes", lambda: judge_nodes(facts)),
        _judged("links", lambda: judge_links(facts)),
        _names(facts, around),
        _clients(facts, around),
        _visitors(facts, around),
        _judged("upkeep", lambda: judge_upkeep(facts)),
        Check("public suffix", _suffix(facts.domain)),
    ]


def no_answer(reason: str) -> Finding:
    """The registry did not answer this command."""
    return Finding(
        "registry-no-answer",
        Severity.ERROR,
        "registry",
        f"The registry does not answer: {reason}.",
        "Nothing can be changed, new clients find no node, and most checks cannot be done. Tunnels go on.",
        f"{at_either('systemctl status', 'portway-registry')}, and its log, on its machine; `--domain` for what can be "
        "seen without it.",
    )


def _judged(name: str, judge: Callable[[], list[Finding]]) -> Check:
    async def look() -> list[Finding]:
        return judge()

    return Check(name, look)


def _suffix(domain: str) -> Callable[[], Awaitable[list[Finding]]]:
    async def look() -> list[Finding]:
        return await asyncio.to_thread(judge_suffix, domain)

    return look


def _names(facts: ClusterFacts, around: Surroundings) -> Check:
    async def look() -> list[Finding]:
        registry = next((one.host for one in around.registries if _is_name(one.host)), "")
        found = await look_up(facts, around.resolver, registry, port=around.name_server_port)
        return judge_names(found)

    return Check("names", look)


def _is_name(host: str) -> bool:
    return is_dns_name(host) and "." in host and not host.replace(".", "").isdigit()


def _clients(facts: ClusterFacts, around: Surroundings) -> Check:
    async def look() -> list[Finding]:
        found = await attach(facts, around.resolver, around.registries, around.ca)
        return judge_clients(found, now_s=time.time())

    return Check("clients", look)


def _visitors(facts: ClusterFacts, around: Surroundings) -> Check:
    async def look() -> list[Finding]:
        found = await meet(facts, around.resolver, around.ca)
        return judge_visitors(found, now_s=time.time())

    return Check("visitors", look)
