"""BINDs of raw tunnels that cannot be answered at once: siblings do not listen yet, or ports are used up."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_EPOCH, FAILURE_CODE_PORTS, Bound
from portway_proto.wire.statements import SigningKey
from portway_registry.pki.ca_folder import CaFolder
from portway_relay.config import PortRange
from portway_relay.raw_ports import region_addresses
from portway_relay.raw_ports.account import Block
from portway_relay.raw_ports.tickets import Tickets
from portway_runtime.certificates import NamedFile, load_certified_key
from portway_runtime.clocks import utc_now
from portway_testkit.fakes.node_sessions import Client, NodeSessions, new_key
from portway_testkit.links.carrier_link import until
from portway_testkit.signers import label_of
from portway_testkit.waiting import PATIENCE

MakeNode = Callable[..., NodeSessions]


@pytest.fixture
async def ears(node: NodeSessions, monkeypatch: pytest.MonkeyPatch) -> asyncio.Future[None]:
    """A sibling that has not said yet that it listens, and that is waited for."""
    monkeypatch.setattr(region_addresses, "SIBLINGS_LISTEN_TIME", PATIENCE)
    node.region.waiting.append(asyncio.get_running_loop().create_future())
    return node.region.waiting[0]


async def answered(client: Client) -> None:
    await until(lambda: bool(client.lane.said))


@pytest.fixture(autouse=True)
async def nothing_waits(node: NodeSessions) -> AsyncIterator[None]:
    """What a test left waiting ends with it."""
    yield
    await node.tasks.close()
    assert not node.failures


def empty(node: NodeSessions) -> None:
    """Every port of this node's own blocks is somebody's."""
    account = node.raw_ports.account
    for port in range(account.range.first, account.range.last + 1):
        account.hold(port, "somebody")


async def test_bound_waits_until_siblings_listen(
    node: NodeSessions, key: SigningKey, ears: "asyncio.Future[None]"
) -> None:
    """The tunnel is there at once, and announced: only its client hears of it later."""
    client = await node.attach()
    client.ask(key, unencrypted=True)
    await until(lambda: node.tunnels.live(label_of(key)) is not None)
    await asyncio.sleep(0)
    assert not client.lane.said
    ears.set_result(None)
    await answered(client)
    assert (await client.bound()).unencrypted_port


async def test_bound_does_not_wait_long(
    node: NodeSessions, key: SigningKey, ears: "asyncio.Future[None]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sibling that says nothing is not waited for."""
    monkeypatch.setattr(region_addresses, "SIBLINGS_LISTEN_TIME", 0.02)
    client = await node.attach()
    client.ask(key, unencrypted=True)
    await answered(client)
    assert (await client.bound()).unencrypted_port
    assert not ears.done()


async def test_a_tunnel_without_a_raw_port_waits_for_nobody(
    node: NodeSessions, key: SigningKey, ears: "asyncio.Future[None]"
) -> None:
    """Siblings need not listen for it."""
    assert (await (await node.attach()).bind(key)).unencrypted_port == 0


async def test_other_requests_are_answered_meanwhile(
    node: NodeSessions, key: SigningKey, ears: "asyncio.Future[None]"
) -> None:
    """One that waits stops nobody."""
    client = await node.attach()
    client.ask(key, unencrypted=True)
    await client.bind(new_key())
    ears.set_result(None)
    await until(lambda: bool(client.lane.said))
    assert client.lane.take(Bound).request == 1


async def test_what_was_closed_meanwhile_is_not_answered(
    node: NodeSessions, key: SigningKey, ears: "asyncio.Future[None]"
) -> None:
    """UNBIND overtakes BOUND; nothing is left of the tunnel."""
    client = await node.attach()
    client.ask(key, unencrypted=True)
    await until(lambda: node.tunnels.live(label_of(key)) is not None)
    client.unbind(key)
    ears.set_result(None)
    await node.tasks.close()
    assert not client.lane.said
    assert node.tunnels.live(label_of(key)) is None
    assert node.raw_ports.account.held == 0


@pytest.mark.parametrize("end", ["lost", "left"])
async def test_nothing_is_answered_on_another_control_lane(
    node: NodeSessions, key: SigningKey, ears: "asyncio.Future[None]", end: str
) -> None:
    """Requests are counted by the lane: a late answer would be another one's."""
    client = await node.attach()
    client.ask(key, unencrypted=True)
    if end == "lost":
        client.lose()
    else:
        client.leave()
    again = await node.attach(resume=client.welcome)
    ears.set_result(None)
    await node.tasks.close()
    assert not any(isinstance(said, Bound) for said in [*client.lane.said, *again.lane.said])


async def test_a_bind_that_is_sent_again_is_answered_once(
    node: NodeSessions, key: SigningKey, ears: "asyncio.Future[None]"
) -> None:
    """The first one's answer was given up when the second came."""
    client = await node.attach()
    client.ask(key, unencrypted=True)
    client.ask(key, unencrypted=True)
    ears.set_result(None)
    await answered(client)
    assert (await client.bound()).request == 2
    assert not client.lane.said


async def test_a_tunnel_that_was_taken_over_meanwhile_is_refused(
    node: NodeSessions, key: SigningKey, ears: "asyncio.Future[None]"
) -> None:
    """BOUND would say that the client has it, after UNBOUND said that it has not."""
    client, other = await node.attach(), await node.attach()
    client.ask(key, unencrypted=True)
    await until(lambda: node.tunnels.live(label_of(key)) is not None)
    other.ask(key, 2, unencrypted=True)
    await until(lambda: bool(client.lane.said))
    client.lane.said.clear()  # UNBOUND
    ears.set_result(None)
    await answered(client)
    assert (await client.refused()).code == FAILURE_CODE_EPOCH
    assert (await other.bound()).unencrypted_port


def a_port_of(node: NodeSessions, owner: str) -> int:
    """This node has no blocks, and a registry says whose this port is."""
    account = node.raw_ports.account
    account.reserved([], {})
    port = account.range.first + 7
    node.owners.learn([(PortRange(port, port + 1), owner)])
    return port


def signed(node: NodeSessions, certificate_files: dict[str, Any], name: str, label: str, port: int) -> bytes:
    """A ticket as another node of the region signs it."""
    pki = certificate_files["cluster_ca"].parent
    if not (pki / f"node-{name}.crt").exists():
        CaFolder.open(pki).add_node(name)
    files = NamedFile(pki / f"node-{name}.crt"), NamedFile(pki / f"node-{name}.key")
    loaded = dataclasses.replace(node.certificates.current(), node=load_certified_key(*files, utc_now()))
    return Tickets(name, "fra", lambda: loaded, node.clock, node.registry_clock).sign(label, port).encoded


async def test_a_ticket_of_the_owner_brings_its_port(
    node: NodeSessions, key: SigningKey, certificate_files: dict[str, Any]
) -> None:
    """Of another node's block, with no registry to ask; the client keeps the same ticket."""
    port = a_port_of(node, "fra-2")
    ticket = signed(node, certificate_files, "fra-2", label_of(key), port)
    bound = await (await node.attach()).bind(key, 2, ticket=ticket, unencrypted=True)
    assert (bound.unencrypted_port, bound.ticket) == (port, ticket)


@pytest.mark.parametrize("wrong", ["another owner", "another label", "an older one", "nonsense"])
async def test_any_other_ticket_does_not(
    node: NodeSessions, key: SigningKey, certificate_files: dict[str, Any], wrong: str
) -> None:
    """The port may be another tunnel's by now: this one gets one of the node's own, or none."""
    port = a_port_of(node, "fra-3" if wrong == "another owner" else "fra-2")
    label = label_of(new_key() if wrong == "another label" else key)
    ticket = signed(node, certificate_files, "fra-2", label, port)
    if wrong == "an older one":
        node.clock.now += 1
        later = new_key()
        newer = signed(node, certificate_files, "fra-2", label_of(later), port)
        holder = await node.attach()
        assert (await holder.bind(later, ticket=newer, unencrypted=True)).unencrypted_port == port
        holder.unbind(later)
    client = await node.attach()
    client.ask(key, 2, ticket=b"nonsense" if wrong == "nonsense" else ticket, unencrypted=True)
    assert (await client.refused()).code == FAILURE_CODE_PORTS


async def test_a_client_waits_while_ports_are_reserved(node: NodeSessions, key: SigningKey) -> None:
    """Its node had given the last one of its blocks."""
    empty(node)
    account = node.raw_ports.account
    port = account.range.first

    def give() -> bool:
        """The second time: at first somebody else was quicker."""
        if node.region.rooms_asked == 2:
            account.reserved([], {})
            account._held.clear()
            account.reserved([Block(PortRange(port, port), fresh=True)], {})
        return True

    node.region.room_given = give
    client = await node.attach()
    client.ask(key, unencrypted=True)
    assert not client.lane.said
    await answered(client)
    assert (await client.bound()).unencrypted_port == port
    assert node.region.rooms_asked == 2


async def test_a_client_that_left_while_it_waited_has_nothing(node: NodeSessions, key: SigningKey) -> None:
    """Nothing is bound for it afterwards."""
    empty(node)
    client = await node.attach()
    client.ask(key, unencrypted=True)
    client.leave()
    await node.tasks.close()
    assert node.tunnels.live(label_of(key)) is None


async def test_waiting_requests_count_as_tunnels(make_node: MakeNode) -> None:
    """A client cannot have more of them than it may have tunnels."""
    node = make_node(max_tunnels_per_session=2)
    empty(node)
    client = await node.attach()
    for _ in range(3):
        client.ask(new_key(), unencrypted=True)
    assert "2 tunnels" in (await client.refused()).message
    await node.tasks.close()
