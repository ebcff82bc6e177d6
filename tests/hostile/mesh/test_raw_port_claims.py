"""A node says that raw ports are its tunnels', or are nobody's: its word gives a port to nobody and takes it from
nobody."""

import dataclasses
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from portway.tunnel import Tunnel
from portway_proto.wire.statements import SigningKey
from portway_relay.raw_ports.tickets import Tickets
from portway_runtime.clocks import RegistryClock
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.fixtures import AsClient
from portway_testkit.links.hand_tunnel import Bind
from portway_testkit.links.thief import Client, SaidPort, Thief
from portway_testkit.visitors.onlookers import answered_raw, named_at
from portway_testkit.visitors.recovery import label_of
from portway_testkit.waiting import PATIENCE, eventually

# A mesh of three nodes starts for each test.
pytestmark = pytest.mark.timeout(120)

REGION = ("fra-1", "fra-2", "fra-3")
HONEST = ("fra-1", "fra-3")
TICKETS = ("none", "its own", "the victim's", "an earlier one")


@pytest.fixture
def region(make_mesh: Callable[..., Cluster]) -> Cluster:
    """One region of three nodes."""
    return make_mesh(*(NodePlan(name, "fra") for name in REGION))


@pytest.fixture
def victim(region: Cluster, as_client: AsClient) -> Iterator[Tunnel]:
    """A tunnel with a raw port of the honest node's block, which the siblings serve too."""
    as_client(region.environment())
    with named_at(region, "fra-1", "own", unencrypted=True) as tunnel:
        for at in REGION:
            eventually(lambda: raw_answer(region, at, tunnel.unencrypted_port) == "own")
        yield tunnel


def raw_answer(cluster: Cluster, at: str, port: int) -> str:
    return answered_raw(cluster.nodes[at].raw_host, port, PATIENCE)


def listens(cluster: Cluster, at: str, port: int) -> bool:
    try:
        socket.create_connection((cluster.nodes[at].raw_host, port)).close()
    except ConnectionRefusedError:
        return False
    return True


def claimed(thief: Thief, port: int) -> Client:
    """A tunnel of the thief's own client, with genuine statements, that has this port by the thief's word."""
    claim = thief.grant.claim(SigningKey(), 1, thief.name, unencrypted=True)
    return Client(claim, thief.grant.present(thief.name), thief.grant.token, raw=SaidPort(port, b""))


def ticket_of(cluster: Cluster, thief: Thief, kind: str, victim: Tunnel, label: str) -> bytes:
    """What the thief shows for the victim's port; an earlier one: the port was its client's before, and rested."""
    if kind == "none":
        return b""
    if kind == "its own":
        return thief.ticket(label, victim.unencrypted_port)

    async def of_victim() -> bytes:
        if kind == "an earlier one":
            return earlier_ticket(cluster, label, victim.unencrypted_port)
        tunnel = cluster.nodes["fra-1"].node._routing.tunnels.live(label_of(victim))
        assert tunnel is not None
        assert tunnel.raw is not None
        return tunnel.raw.ticket

    return cluster.run(of_victim)


def earlier_ticket(cluster: Cluster, label: str, port: int) -> bytes:
    """One that the port's owner has signed for another label a minute ago."""
    owner = cluster.nodes["fra-1"].node
    late = RegistryClock(lambda: time.time() - 60, time.monotonic)
    return Tickets("fra-1", "fra", owner._raw.tickets._loaded, time.time, late).sign(label, port).encoded


@pytest.mark.parametrize("kind", TICKETS)
def test_it_takes_no_port_from_a_siblings_tunnel(region: Cluster, victim: Tunnel, bind: Bind, kind: str) -> None:
    """With no ticket, one that it signed itself for a port of another node's block, the victim's own, of which it was
    told, or one that the port's owner has signed for the label that had it before: visitors of the port stay with
    the victim, at its home and at the third node. A later tunnel's port is served there, so all of it was heard."""
    thief = Thief(region, "fra-2", bind)
    client = claimed(thief, victim.unencrypted_port)
    ticket = ticket_of(region, thief, kind, victim, client.claim.label)
    thief.claims(with_ticket(client, ticket))
    thief.was_heard()
    for _ in range(3):
        assert {raw_answer(region, at, victim.unencrypted_port) for at in HONEST} == {"own"}


def test_it_takes_no_port_by_saying_that_the_tunnel_is_gone(region: Cluster, victim: Tunnel, bind: Bind) -> None:
    """Nor by replaying the victim's claim as its own node's: a node is heard about itself alone."""
    thief = Thief(region, "fra-2", bind)

    async def key_of_victim() -> tuple[str, int]:
        tunnel = region.nodes["fra-1"].node._routing.tunnels.live(label_of(victim))
        assert tunnel is not None
        return tunnel.label, tunnel.epoch

    label, epoch = region.run(key_of_victim)
    for ahead in (0, 1, 1000):
        thief.takes_back(label, epoch + ahead)
    thief.was_heard()
    for _ in range(3):
        assert {raw_answer(region, at, victim.unencrypted_port) for at in HONEST} == {"own"}


@pytest.mark.parametrize("owner", ["fra-1", "fra-3", ""])
def test_it_gives_itself_no_port_of_another_block(region: Cluster, victim: Tunnel, bind: Bind, owner: str) -> None:
    """A free port of an honest node's block, or of nobody's, by its own ticket: no sibling listens on it. Its own
    block's port is served, by a ticket that it may sign."""
    thief = Thief(region, "fra-2", bind)
    own = free_port(region, "fra-2")
    thief.claims(with_own_ticket(thief, claimed(thief, own)))
    for at in HONEST:
        eventually(lambda: listens(region, at, own))
    port = free_port(region, owner) if owner else nobodys_port(region)
    thief.claims(with_own_ticket(thief, claimed(thief, port)))
    thief.was_heard()
    assert not any(listens(region, at, port) for at in HONEST)


def with_ticket(client: Client, ticket: bytes) -> Client:
    assert client.raw is not None
    return dataclasses.replace(client, raw=SaidPort(client.raw.port, ticket))


def with_own_ticket(thief: Thief, client: Client) -> Client:
    assert client.raw is not None
    return with_ticket(client, thief.ticket(client.claim.label, client.raw.port))


def free_port(region: Cluster, node: str) -> int:
    """A port of a node's blocks that nobody listens on."""

    async def free() -> list[int]:
        account = region.nodes[node].node._raw.sockets.account
        return list(account.candidates("b" * 16, None))

    return next(port for port in region.run(free) if not any(listens(region, at, port) for at in REGION))


def nobodys_port(region: Cluster) -> int:
    """A port of the region that is of no node's block."""

    async def owned(port: int) -> bool:
        return any(running.node._raw.owners.owner(port) for running in region.nodes.values())

    ports = region.nodes["fra-1"].config.raw_ports
    return next(port for port in range(ports.last, ports.first, -1) if not region.run(lambda: owned(port)))
