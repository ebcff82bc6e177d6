"""How this machine is: what runs, its certificates, the delegation, the cluster's nodes.

Here: asking each part as an operator would, and judging. Not here: printing (cli/status.py), other machines.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Final

import aiohttp
from portway_proto.v1.admin_pb2 import ZoneCertificateInfo
from portway_proto.v1.types_pb2 import NODE_STATE_READY, REACH_FAILED, NodeInfo, NodeState
from portway_registry.doctor.delegation import Referral, ask_above
from portway_registry.doctor.resolver import Resolver
from portway_registry.state.records import waits_for_certificate
from portway_runtime.clocks import utc_now
from portway_runtime.endpoints import Endpoint

from portway_server.clock import clock_ahead, judge_clock
from portway_server.config import MachineConfig
from portway_server.delegation import judge
from portway_server.errors import CallFailed
from portway_server.own_servers import own_servers
from portway_server.plan import parent_records
from portway_server.registry_calls import loopback, operators_calls
from portway_server.up import FIRST_CLIENT

_ANSWERED_WITHIN: Final = 5.0
_SOON: Final = timedelta(days=7)
_END: Final = re.compile(r'portway_(?:relay|registry)_certificate_end_timestamp_seconds\{certificate="([^"]+)"\} (\S+)')
_MISSING: Final = re.compile(r'portway_relay_region_certificate_missing\{region="([^"]+)"\} 1')


class Level(IntEnum):
    """How good something is; the worst one is the machine's."""

    GOOD = 0
    WARNING = 1
    BAD = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing. `more`: further lines for people."""

    what: str
    level: Level
    text: str
    more: tuple[str, ...] = ()


async def look_at(config: MachineConfig) -> list[Finding]:
    """All findings, in the order in which they depend on each other."""
    found = []
    if config.registry is not None:
        found.append(await _program("registry", config.registry.metrics_listen, "/healthz", "metrics_listen"))
    found.append(await _program("node", config.relay.admin_listen, "/readyz", "admin_listen"))
    found += await _clock(config)
    found += await _certificates(config)
    if config.relay.dns_listen:
        found.append(await _delegation(config))
    if config.registry is not None:
        found += await _nodes(config)
        found += _first_client(config)
    return found


async def _program(what: str, at: Endpoint | None, page: str, setting: str) -> Finding:
    if at is None:
        return Finding(what, Level.WARNING, f"unknown: {setting} is not set")
    try:
        code, text = await _page(at, page)
    except (aiohttp.ClientError, OSError):
        return Finding(what, Level.BAD, f"does not run: nothing answers at {at}")
    return Finding(what, Level.GOOD if code == 200 else Level.BAD, "serves" if code == 200 else f"not ready: {text}")


async def _clock(config: MachineConfig) -> list[Finding]:
    directory = None if config.registry is None else config.registry.acme_directory
    ahead = None if directory is None else await clock_ahead(directory, utc_now)
    if ahead is None:
        return []
    fault = judge_clock(ahead)
    return [Finding("clock", Level.BAD if fault else Level.GOOD, fault or "is right")]


async def _certificates(config: MachineConfig) -> list[Finding]:
    pages = []
    for at in (None if config.registry is None else config.registry.metrics_listen, config.relay.admin_listen):
        if at is not None:
            try:
                pages.append((await _page(at, "/metrics"))[1])
            except (aiohttp.ClientError, OSError):
                continue
    return list(certificates_of("\n".join(pages), utc_now()))


def certificates_of(metrics: str, now: datetime) -> Iterator[Finding]:
    """The certificates in pages of metrics, and the regions that have none."""
    for name, seconds in dict(_END.findall(metrics)).items():
        end = datetime.fromtimestamp(float(seconds), UTC)
        left = end - now
        # A node's own one lives for two days, and is renewed by the node itself.
        level = Level.BAD if left <= timedelta(0) else Level.WARNING if left < _SOON and name != "node" else Level.GOOD
        ends = "has ended on" if left <= timedelta(0) else "ends on"
        yield Finding(f"certificate {name}", level, f"{ends} {end:%Y-%m-%d %H:%M} UTC")
    for region in _MISSING.findall(metrics):
        yield Finding(f"certificate of {region}", Level.WARNING, "this node has none, and refuses its visitors")


async def _delegation(config: MachineConfig) -> Finding:
    relay = config.relay
    own, listening = relay.public_address, relay.dns_listen
    servers = await own_servers(relay.domain, listening)
    if not servers and config.registry is None:
        # The domain's servers are other machines, perhaps, and only the cluster knows which.
        return Finding("delegation", Level.BAD, "not judged: this node does not answer DNS")
    addresses = [address for _, found in servers for address in found] or [str(one) for one in own]
    seen = await ask_above(relay.domain, Resolver(config.own.resolver))
    verdict = judge(relay.domain, addresses, seen)
    if verdict.good:
        lacking, strange = unlisted(servers, seen), strangers(servers, seen)
        if lacking:
            names = " and ".join(name for name, _ in lacking)
            text = f"{verdict.text}, and not to {names}: without these records names depend on fewer machines"
            return Finding("delegation", Level.WARNING, text, tuple(_records(relay.domain, lacking)))
        if strange:
            names = " and ".join(strange)
            text = (
                f"{verdict.text}, of which the cluster does not know {names}: take out the NS records of what is gone"
            )
            return Finding("delegation", Level.WARNING, text)
        return Finding("delegation", Level.GOOD, verdict.text)
    wanted = servers or [(f"ns1.{relay.domain}", tuple(map(str, own)))]
    return Finding("delegation", Level.BAD, verdict.text, tuple(_records(relay.domain, wanted)))


def unlisted(servers: Sequence[tuple[str, tuple[str, ...]]], seen: Referral) -> list[tuple[str, tuple[str, ...]]]:
    """Of the cluster's name servers those that the zone above does not name, or with none of their addresses."""
    named = {name: set(addresses) for name, addresses in seen.servers}
    return [(name, addresses) for name, addresses in servers if named.get(name, set()).isdisjoint(addresses)]


def strangers(servers: Sequence[tuple[str, tuple[str, ...]]], seen: Referral) -> list[str]:
    """The name servers that the zone above names and the cluster does not; none while the cluster's are not known."""
    known = {name for name, _ in servers}
    return [name for name, _ in seen.servers if known and name not in known]


def _records(domain: str, servers: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    for name, addresses in servers:
        yield from parent_records(domain, name, addresses)


async def _nodes(config: MachineConfig) -> list[Finding]:
    registry = config.registry
    assert registry is not None
    failed: list[Finding] = []
    file = registry.first_admin_token_file()
    try:
        token = "" if file is None else file.read_text().strip()
    except OSError as error:
        return [Finding("nodes", Level.WARNING, f"not asked: {file} cannot be read: {error.strerror}")]
    try:
        async with operators_calls(registry, token, config.own.registry_user) as calls:
            nodes = await calls.nodes()
            if registry.acme_directory is not None:
                failed = [one for info in await calls.certificates() if (one := certificate_failure(info)) is not None]
    except CallFailed as error:
        return [Finding("nodes", Level.BAD, str(error))]
    if not nodes:
        return [Finding("nodes", Level.BAD, "none is registered")]
    return [*failed, *(node_finding(one) for one in nodes)]


def certificate_failure(info: ZoneCertificateInfo) -> Finding | None:
    """Why a certificate is not there, or not renewed; None for one that is."""
    if not info.failures and info.until_ms:
        return None
    what = f"certificate {info.zone}"
    if not info.failures:
        return Finding(what, Level.WARNING, "is being obtained")
    again = f"{datetime.fromtimestamp(info.retry_at_ms / 1000, UTC):%H:%M:%S} UTC"
    text = f"{'not renewed' if info.until_ms else 'not obtained'}: {info.failure}; tried again at {again}"
    mend = f"once that is mended, do not wait: `portway-admin certificate renew {info.zone}`"
    return Finding(what, Level.WARNING if info.until_ms else Level.BAD, text, (mend,))


def node_finding(node: NodeInfo) -> Finding:
    """A node as the registry has it."""
    state = NodeState.Name(node.state).removeprefix("NODE_STATE_").lower()
    if waits_for_certificate(node):
        state = "no certificate of its region yet"
    where = f"{state}, region {node.region}, {Endpoint(node.host, node.port)}, {node.tunnels} tunnels"
    if node.reach == REACH_FAILED:
        return Finding(f"node {node.name}", Level.BAD, f"{where}; nobody reaches it: is a firewall in between?")
    return Finding(f"node {node.name}", Level.GOOD if node.state == NODE_STATE_READY else Level.WARNING, where)


def _first_client(config: MachineConfig) -> list[Finding]:
    file = config.own.state_dir / FIRST_CLIENT
    return [Finding("first client", Level.GOOD, f"its line is in {file}")] if file.exists() else []


async def _page(at: Endpoint, path: str) -> tuple[int, str]:
    limit = aiohttp.ClientTimeout(total=_ANSWERED_WITHIN)
    async with aiohttp.ClientSession(timeout=limit) as session, session.get(f"http://{loopback(at)}{path}") as answer:
        return answer.status, (await answer.text()).strip()
