"""Names as strangers find them: judged, and asked of real servers on loopback."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
from portway_registry.doctor.check import Skipped
from portway_registry.doctor.facts import ClusterFacts
from portway_registry.doctor.finding import Severity
from portway_registry.doctor.name_servers import Delegation, NameServer, ServerAnswer, look_at_delegation
from portway_registry.doctor.names import NameFacts, judge_names, look_up
from portway_registry.doctor.resolver import Addresses, Resolver
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.registry import node_info
from portway_testkit.fakes.name_server import NameServers, Zone

DOMAIN = "tun.example.com"
NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
AT = Endpoint("192.0.2.1", 53)


def server(name: str = "ns1", **more: Any) -> NameServer:
    at = Endpoint({"ns1": "192.0.2.1", "ns2": "192.0.2.2"}[name], 53)
    given: dict[str, Any] = {
        "glue": frozenset({at.host}),
        "addresses": (at.host,),
        "failure": "",
        "answers": tuple(ServerAnswer(at, transport, authoritative=True) for transport in ("udp", "tcp")),
    }
    return NameServer(f"{name}.{DOMAIN}", **given | more)


def delegation(*servers: NameServer, **more: Any) -> Delegation:
    names = frozenset(one.name for one in servers)
    return Delegation(**{"cut": DOMAIN, "at_parent": names, "own": names, "servers": servers} | more)


BOTH = (server("ns1"), server("ns2"))


def judged(told: Delegation | None = None, **more: Any) -> list[tuple[str, Severity]]:
    given: dict[str, Any] = {
        "regions": {"fra": (Addresses("a", ("192.0.2.1",)), Addresses("b", ("192.0.2.1",)))},
        "nodes": {"fra-1": frozenset({"192.0.2.1", "2001:db8::1"})},
        "registry": None,
    }
    found = judge_names(NameFacts(DOMAIN, told or delegation(*BOTH), **given | more))
    assert all(one.what and one.why and one.mend for one in found)
    return [(one.kind, one.severity) for one in found]


def failing(transport: str) -> tuple[ServerAnswer, ...]:
    return tuple(
        ServerAnswer(AT, one, "no answer") if one == transport else ServerAnswer(AT, one, authoritative=True)
        for one in ("udp", "tcp")
    )


SILENT = server("ns1", answers=tuple(ServerAnswer(AT, one, "no answer") for one in ("udp", "tcp")))


def test_nodes_that_answer_unasked_are_found() -> None:
    """A domain in the zone above is right where no node answers DNS."""
    assert judged(Delegation("example.com"), servers={"fra-1": 7}) == [("not-delegated", WARNING)]
    assert judged(Delegation("example.com")) == []


def test_a_node_that_answers_from_older_records_is_found() -> None:
    """All of one version are none."""
    assert judged(servers={"fra-1": 7, "fra-2": 7}) == []
    assert judged(servers={"fra-1": 7, "fra-2": 6}) == [("name-server-behind", WARNING)]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (delegation(*BOTH), []),
        (Delegation("example.com"), []),
        (Delegation("", "NXDOMAIN"), [("delegation-unknown", ERROR)]),
        (delegation(*BOTH, at_parent=None), [("parent-silent", WARNING)]),
        (delegation(*BOTH, at_parent=frozenset({f"ns1.{DOMAIN}"})), [("name-servers-differ", WARNING)]),
        (delegation(server("ns1")), [("one-name-server", NOTE)]),
        (delegation(server("ns1", glue=frozenset()), server("ns2")), [("glue-missing", ERROR)]),
        (delegation(server("ns1", glue=frozenset({"192.0.2.9"})), server("ns2")), [("glue-differs", WARNING)]),
        (delegation(server("ns1", glue=None), server("ns2")), []),
        (
            delegation(server("ns1", glue=None, addresses=(), failure="x", answers=()), server("ns2")),
            [("name-server-unresolved", ERROR), ("one-name-server", NOTE)],
        ),
        (delegation(server("ns1", answers=failing("tcp")), server("ns2")), [("name-server-silent", WARNING)]),
        (delegation(server("ns1", answers=failing("udp")), server("ns2")), [("name-server-silent", WARNING)]),
        (delegation(SILENT, server("ns2")), [("name-server-silent", ERROR)] * 2),
        (delegation(SILENT), [("name-server-silent", ERROR)] * 2 + [("name-servers-silent", ERROR)]),
        (
            delegation(server("ns1", answers=(ServerAnswer(AT, "udp"),)), server("ns2")),
            [("name-server-lame", ERROR)],
        ),
    ],
)
def test_delegations_are_judged(told: Delegation, expected: list[tuple[str, Severity]]) -> None:
    """What the parent says, what the zone says, what each server answers."""
    assert judged(told) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"regions": {"fra": (Addresses("a", failure="x"), Addresses("b"))}}, [("region-unresolved", ERROR)]),
        (
            {"regions": {"fra": (Addresses("a", ("192.0.2.1",)), Addresses("b", ("192.0.2.9",)))}},
            [("region-led-astray", ERROR)],
        ),
        ({"regions": {"fra": (Addresses("a", (), ("2001:DB8:0::1",)),) * 2}}, []),
        ({"registry": Addresses(DOMAIN, failure="NXDOMAIN")}, [("registry-name-unresolved", ERROR)]),
        ({"registry": Addresses(DOMAIN, ("192.0.2.7",))}, []),
    ],
)
def test_names_are_judged(found: dict[str, Any], expected: list[tuple[str, Severity]]) -> None:
    """A name of each region leads to nodes, and the registry's somewhere."""
    assert judged(**found) == expected


# Real questions. The servers are at loopback addresses of their own, at one port.

PARENT, FIRST, SECOND, ASKED = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
ABOVE: Mapping[str, list[str]] = {
    "example.com": ["SOA a.nic.example. b. 1 1 1 1 1", "NS a.nic.example."],
    "a.nic.example": [f"A {PARENT}"],
}
OWN: Mapping[str, list[str]] = {
    DOMAIN: ["SOA ns1. b. 7 1 1 1 1", f"NS ns1.{DOMAIN}.", f"NS ns2.{DOMAIN}.", f"A {FIRST}"],
    f"ns1.{DOMAIN}": [f"A {FIRST}"],
    f"ns2.{DOMAIN}": [f"A {SECOND}"],
    f"*.fra.{DOMAIN}": [f"A {FIRST}", f"A {SECOND}"],
}
REFERRAL: Mapping[str, list[str]] = {
    DOMAIN: [f"NS ns1.{DOMAIN}.", f"NS ns2.{DOMAIN}."],
    f"ns1.{DOMAIN}": [f"A {FIRST}"],
    f"ns2.{DOMAIN}": [f"A {SECOND}"],
}

Serve = Callable[..., Any]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Mapping[str, Zone]], Any]]:
    async with AsyncExitStack() as stack:

        async def serve(zones: Mapping[str, Zone]) -> NameServers:
            return await stack.enter_async_context(NameServers(zones))

        yield serve


def zones(**changed: Zone | None) -> dict[str, Zone]:
    """All servers as they should be, except those that are `changed`; None: nobody listens there."""
    given: dict[str, Zone | None] = {
        "asked": Zone({**ABOVE, **OWN}),
        "parent": Zone(REFERRAL, authoritative=False, referral=DOMAIN),
        "first": Zone(OWN),
        "second": Zone(OWN),
    }
    places = {"asked": ASKED, "parent": PARENT, "first": FIRST, "second": SECOND}
    return {places[name]: zone for name, zone in (given | changed).items() if zone is not None}


def cluster(*hosts: str) -> ClusterFacts:
    nodes = [node_info(f"fra-{number}", host=host, domain=DOMAIN) for number, host in enumerate(hosts, 1)]
    return ClusterFacts(None, nodes, (), (), 0, 0.0)


async def asked(servers: NameServers, *hosts: str, registry: str = DOMAIN) -> list[str]:
    resolver = Resolver([Endpoint(ASKED, servers.port)])
    found = await look_up(cluster(*(hosts or (FIRST, SECOND))), resolver, registry, port=servers.port)
    return [one.kind for one in judge_names(found)]


async def test_a_domain_that_is_well_has_no_finding(serve: Serve) -> None:
    """Asked of the resolver, of the parent, of both servers over UDP and TCP."""
    servers = await serve(zones())
    assert await asked(servers) == []
    told = await look_at_delegation(DOMAIN, Resolver([Endpoint(ASKED, servers.port)]), port=servers.port)
    assert (told.cut, told.at_parent) == (DOMAIN, told.own)
    assert [(one.name, one.glue) for one in told.servers] == [
        (f"ns1.{DOMAIN}", frozenset({FIRST})),
        (f"ns2.{DOMAIN}", frozenset({SECOND})),
    ]
    assert {(one.transport, one.serial) for each in told.servers for one in each.answers} == {("udp", 7), ("tcp", 7)}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"second": None}, {"name-server-silent"}),
        ({"second": Zone(OWN, authoritative=False)}, {"name-server-lame"}),
        ({"second": Zone(OWN, tcp=False)}, {"name-server-silent"}),
        ({"second": Zone({}, refuses=True)}, {"name-server-silent"}),
        (
            {"parent": Zone({DOMAIN: REFERRAL[DOMAIN]}, authoritative=False, referral=DOMAIN)},
            {"glue-missing"},
        ),
        (
            {
                "parent": Zone(
                    {DOMAIN: [f"NS ns1.{DOMAIN}."], f"ns1.{DOMAIN}": [f"A {FIRST}"]},
                    authoritative=False,
                    referral=DOMAIN,
                )
            },
            {"name-servers-differ"},
        ),
        ({"parent": Zone({}, refuses=True)}, {"parent-silent"}),
        ({"parent": Zone({}, authoritative=False)}, {"parent-silent"}),
        ({"parent": None}, {"parent-silent"}),
        # A resolver finds nothing below the domain then, and so looks like one of a domain that is not delegated.
        (
            {"asked": Zone(ABOVE), "first": None, "second": None},
            {"name-server-silent", "name-servers-silent", "region-unresolved", "registry-name-unresolved"},
        ),
        (
            {"asked": Zone({**ABOVE, **OWN, f"*.fra.{DOMAIN}": [f"A {FIRST}", "A 127.0.0.9"]})},
            {"region-led-astray"},
        ),
        (
            {"asked": Zone({name: records for name, records in {**ABOVE, **OWN}.items() if "*" not in name})},
            {"region-unresolved"},
        ),
        ({"asked": Zone({}, refuses=True)}, {"delegation-unknown", "region-unresolved", "registry-name-unresolved"}),
    ],
)
async def test_each_fault_of_a_delegation_is_found(
    serve: Serve, changed: dict[str, Zone | None], expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the servers answer it, or do not."""
    limit = 1.0 if None in changed.values() else 20.0  # seconds, all of which pass where nobody listens
    for module in ("delegation", "name_servers"):
        monkeypatch.setattr(f"portway_registry.doctor.{module}._ANSWER_LIMIT", limit)
    assert set(await asked(await serve(zones(**changed)))) == expected


async def test_a_domain_in_its_parent_s_zone_needs_no_servers(serve: Serve) -> None:
    """Wildcard records at a provider: names are looked at, and no delegation."""
    records = {**ABOVE, DOMAIN: [f"A {FIRST}"], f"*.fra.{DOMAIN}": [f"A {FIRST}"]}
    assert await asked(await serve({ASKED: Zone(records)})) == []


async def test_nodes_by_name_are_known_by_their_addresses(serve: Serve) -> None:
    """Those that the resolver finds."""
    names = {**ABOVE, **OWN, "n1.example.com": [f"A {FIRST}"], "n2.example.com": [f"A {SECOND}", "AAAA ::1"]}
    servers = await serve(zones(asked=Zone(names)))
    assert await asked(servers, "n1.example.com", "n2.example.com") == []
    assert await asked(servers, "n1.example.com") == ["region-led-astray"]


async def test_public_addresses_of_nodes_are_known(serve: Serve) -> None:
    """Those that a node says, beside what its host resolves to."""
    servers = await serve(zones())
    nodes = [node_info("fra-1", host=FIRST, domain=DOMAIN, addresses=[SECOND, "2001:db8::1"])]
    resolver = Resolver([Endpoint(ASKED, servers.port)])
    found = await look_up(ClusterFacts(None, nodes, (), (), 0, 0.0), resolver, "", port=servers.port)
    assert found.nodes == {"fra-1": frozenset({FIRST, SECOND, "2001:db8::1"})}
    assert judge_names(found) == []


async def test_a_domain_that_nobody_knows_is_left_out() -> None:
    """Unless a resolver is named that may."""
    here = Resolver()
    with pytest.raises(Skipped, match="no domain is known"):
        await look_up(ClusterFacts(None, (), (), (), 0, 0.0), here, "")
    with pytest.raises(Skipped, match="give --resolver"):
        await look_up(ClusterFacts(None, (), (), (), 0, 0.0, "tunnels.localhost"), here, "")


async def test_this_machine_looks_names_up_as_it_does() -> None:
    """Its hosts file included; a name that does not exist has a reason, an address is itself."""
    here = Resolver()
    assert "127.0.0.1" in (await here.addresses("localhost")).ipv4
    assert (await here.addresses("no-such-name.invalid")).failure
    assert await here.addresses("[2001:db8::1]") == Addresses("[2001:db8::1]", (), ("2001:db8::1",))
