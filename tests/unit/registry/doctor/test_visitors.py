"""What visitors meet at a node and at the registry, as the doctor judges it; handshakes with real servers."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme
from portway_registry.doctor.finding import Finding, Severity
from portway_registry.doctor.handshakes import Handshake, How, shake_hands, trusting
from portway_registry.doctor.resolver import Addresses
from portway_registry.doctor.visitors import NodeVisit, VisitorFacts, judge_visitors
from portway_relay.ingress.decision import Alert
from portway_runtime.endpoints import Endpoint

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

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
    given: dict[str, Any] = {"hosts": {}, "only_by_file": frozenset(), "registry_hosts": (), "registry": ()}
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
        ([visit(hand(How.NO_FAMILY, V6)), visit(hand()), SERVED], []),
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


def test_names_that_do_not_resolve_are_found() -> None:
    """A node's and the registry's."""
    missing = Addresses("x.example.com", failure="NXDOMAIN")
    assert judged(hosts={"fra-1": missing, "fra-2": Addresses("y", ("192.0.2.1",))}) == [
        ("node-name-unresolved", ERROR)
    ]
    assert judged(registry_hosts=[missing]) == [("registry-unresolved", ERROR)]


def test_a_ca_of_one_s_own_is_none_of_browsers() -> None:
    """Which matters for a domain of the Internet."""
    assert judged(only_by_file=frozenset({ZONE, "fra.localhost"})) == [("zone-trusted-here-only", WARNING)]


@asynccontextmanager
async def listening(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[Endpoint]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])


def says(answer: bytes) -> Serve:
    """Answers the first bytes with these, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(answer)
        writer.close()

    return serve


async def test_handshakes_are_told_apart() -> None:
    """Done, with the certificate's times; untrusted, for another name; no listener; refused, no TLS, closed."""
    authority, other = trustme.CA(), trustme.CA()
    trusted = trusting(authority.cert_pem.bytes(), system=False)
    name = f"a.{ZONE}"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(f"*.{ZONE}").configure_cert(context)
    async with listening(says(b""), context) as at:
        done = await shake_hands(at, name, trusted)
        assert (done.how, done.reason) == (How.DONE, "")
        assert 0 < done.begins_s < done.end_s
        assert (await shake_hands(at, "a.lon.tun.example.com", trusted)).how is How.UNTRUSTED
        untrusted = await shake_hands(at, name, trusting(other.cert_pem.bytes(), system=True))
        assert untrusted.how is How.UNTRUSTED
        assert "self" in untrusted.reason or "issuer" in untrusted.reason
    assert (await shake_hands(at, name, trusted)).how is How.UNREACHED
    for answer, how in (
        (Alert.UNRECOGNIZED_NAME.record, How.NAME_REFUSED),
        (b"SSH-2.0-server\r\n", How.FAILED),
        (b"", How.FAILED),
    ):
        async with listening(says(answer)) as at:
            assert (await shake_hands(at, name, trusted)).how is how
