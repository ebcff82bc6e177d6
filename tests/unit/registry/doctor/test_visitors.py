"""What visitors meet at a node, as the doctor judges it."""

from typing import Any

import pytest
from portway_registry.doctor.finding import Finding, Severity
from portway_registry.doctor.handshakes import Handshake, How
from portway_registry.doctor.resolver import Addresses
from portway_registry.doctor.visitors import NodeVisit, VisitorFacts, judge_visitors
from portway_runtime.endpoints import Endpoint

DAY = 86_400.0
NOW = 1_800_000_000.0
ZONE = "fra.tun.example.com"
V4, V6 = Endpoint("192.0.2.1", 443), Endpoint("2001:db8::1", 443)
NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR


def hand(how: How = How.DONE, at: Endpoint = V4, days: float = 60, life: float = 90) -> Handshake:
    end = NOW + days * DAY
    return Handshake(at, f"a.{ZONE}", how, "" if how is How.DONE else "reason", end - life * DAY, end)


def visit(handshake: Handshake, node: str = "fra-1", *, of_tunnel: bool = True) -> NodeVisit:
    return NodeVisit(node, ZONE, of_tunnel, handshake)


def judged(*visits: NodeVisit, **more: Any) -> list[tuple[str, Severity]]:
    given: dict[str, Any] = {"hosts": {}, "only_by_file": frozenset()}
    found = judge_visitors(VisitorFacts(visits=visits, **given | more), now_s=NOW)
    return kinds(found)


def kinds(found: list[Finding]) -> list[tuple[str, Severity]]:
    return [(one.kind, one.severity) for one in found]


SERVED = visit(hand(), "fra-2")


@pytest.mark.parametrize(
    ("visits", "expected"),
    [
        ([SERVED], []),
        ([visit(hand(How.UNREACHED)), SERVED], [("visitor-unreached", ERROR)]),
        ([visit(hand(How.UNREACHED, V6)), visit(hand()), SERVED], [("visitor-unreached", WARNING)]),
        ([visit(hand(How.NO_FAMILY, V6)), visit(hand()), SERVED], [("family-not-tried", NOTE)]),
        ([visit(hand(How.NAME_REFUSED)), SERVED], [("zone-not-served", ERROR)]),
        ([visit(hand(How.NAME_REFUSED))], []),
        ([visit(hand(How.NAME_REFUSED), of_tunnel=False), SERVED], []),
        ([visit(hand(How.UNTRUSTED)), SERVED], [("zone-untrusted", ERROR)]),
        ([visit(hand(How.FAILED)), SERVED], [("zone-handshake-failed", ERROR)]),
        ([visit(hand(days=20))], [("zone-ends", WARNING)]),
        ([visit(hand(days=2))], [("zone-ends", ERROR)]),
        ([visit(hand(days=2, life=6))], []),
        ([visit(hand(days=1.4, life=6))], [("zone-ends", WARNING)]),
        ([visit(hand(days=0.4, life=6))], [("zone-ends", ERROR)]),
        ([visit(hand(days=20)), visit(hand(at=V6, days=20)), visit(hand(days=20), "fra-2")], [("zone-ends", WARNING)]),
    ],
)
def test_visits_are_judged(visits: list[NodeVisit], expected: list[tuple[str, Severity]]) -> None:
    """By address, and by the zone; a tunnel that no node serves has ended."""
    assert judged(*visits) == expected


def test_names_that_do_not_resolve_are_found() -> None:
    """A node that advertises one."""
    missing = Addresses("x.example.com", failure="NXDOMAIN")
    assert judged(hosts={"fra-1": missing, "fra-2": Addresses("y", ("192.0.2.1",))}) == [
        ("node-name-unresolved", ERROR)
    ]


def test_a_ca_of_one_s_own_is_none_of_browsers() -> None:
    """Which matters for a domain of the Internet."""
    assert judged(only_by_file=frozenset({ZONE, "fra.localhost"})) == [("zone-trusted-here-only", WARNING)]
