"""What clients meet at the registry and at nodes, as the doctor judges it."""

from typing import Any

import pytest
from portway_registry.doctor.check import Skipped
from portway_registry.doctor.clients import ClientFacts, attach, judge_clients
from portway_registry.doctor.facts import ClusterFacts
from portway_registry.doctor.finding import Severity
from portway_registry.doctor.handshakes import Handshake, How
from portway_registry.doctor.resolver import Addresses, Resolver
from portway_runtime.endpoints import Endpoint

DAY = 86_400.0
NOW = 1_800_000_000.0
V4, V6 = Endpoint("192.0.2.1", 443), Endpoint("2001:db8::1", 443)
WARNING, ERROR = Severity.WARNING, Severity.ERROR


def hand(how: How = How.DONE, at: Endpoint = V4, days: float = 60, life: float = 90) -> Handshake:
    end = NOW + days * DAY
    return Handshake(at, "registry.example.com", how, "" if how is How.DONE else "reason", end - life * DAY, end)


def judged(**found: Any) -> list[tuple[str, Severity]]:
    given: dict[str, Any] = {"registry_hosts": (), "registry": (), "nodes": ()}
    return [(one.kind, one.severity) for one in judge_clients(ClientFacts(**given | found), now_s=NOW)]


@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        ([hand()], []),
        ([hand(How.UNREACHED)], [("registry-unreached", ERROR)]),
        ([hand(), hand(How.UNREACHED, V6)], [("registry-unreached", WARNING)]),
        ([hand(), hand(How.NO_FAMILY, V6)], []),
        ([hand(How.UNTRUSTED)], [("registry-untrusted", ERROR)]),
        ([hand(How.FAILED)], [("registry-untrusted", ERROR)]),
        ([hand(days=20)], [("registry-ends", WARNING)]),
    ],
)
def test_the_registry_is_judged(registry: list[Handshake], expected: list[tuple[str, Severity]]) -> None:
    """At each of its addresses."""
    assert judged(registry=registry) == expected


def test_a_registry_s_name_that_does_not_resolve_is_found() -> None:
    """Nothing is dialled then."""
    missing = Addresses("x.example.com", failure="NXDOMAIN")
    assert judged(registry_hosts=[missing]) == [("registry-unresolved", ERROR)]


@pytest.mark.parametrize(
    ("dialled", "expected"),
    [
        ([hand(days=1.5, life=2)], []),
        ([hand(How.UNREACHED)], []),
        ([hand(How.NO_FAMILY, V6)], []),
        ([hand(How.UNTRUSTED)], [("node-untrusted", ERROR)]),
        ([hand(How.NAME_REFUSED), hand(How.NAME_REFUSED, V6)], [("node-untrusted", ERROR)]),
        ([hand(), hand(How.FAILED, V6)], [("node-untrusted", ERROR)]),
        ([hand(days=0.4, life=2)], [("node-not-renewed", WARNING)]),
        ([hand(days=0.1, life=2)], [("node-not-renewed", ERROR)]),
    ],
)
def test_nodes_are_judged(dialled: list[Handshake], expected: list[tuple[str, Severity]]) -> None:
    """By their cluster certificates, of two days, which they renew at half."""
    assert judged(nodes=[("fra-1", one) for one in dialled]) == expected


async def test_without_anything_to_dial_it_is_left_out() -> None:
    """Through a proxy, and without nodes."""
    with pytest.raises(Skipped):
        await attach(ClusterFacts(None, (), (), (), 0, 0.0), Resolver(), (), None)
