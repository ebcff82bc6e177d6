"""BINDs of raw tunnels that cannot be answered at once: siblings do not listen yet, a registry must be asked."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_EPOCH, FAILURE_CODE_PORTS, Bound
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.labels import Chain
from portway_relay.config import PortRange
from portway_relay.raw_ports import region_addresses
from portway_relay.raw_ports.account import Block
from portway_relay.raw_ports.tickets import Tickets
from portway_testkit.fakes.node_sessions import Client, NodeSessions, new_chain
from portway_testkit.links.carrier_link import until

MakeNode = Callable[..., NodeSessions]


@pytest.fixture
async def ears(node: NodeSessions) -> asyncio.Future[None]:
    """A sibling that has not said yet that it listens."""
    node.region.waiting.append(asyncio.get_running_loop().create_future())
    return node.region.waiting[0]


async def answered(client: Client) -> None:
    await until(lambda: bool(client.lane.said))


@pytest.fixture(autouse=True)
async def nothing_waits(node: NodeSessions) -> AsyncIterator[None]:
    """What a test left waiting ends with it."""
    yield
    await node.addresses.close()
    assert not node.region.failures


def a_ticket(node: NodeSessions, label: str, port: int) -> bytes:
    """As another node of the region signed it."""
    tickets: Tickets = node.tickets
    return tickets.sign(label, port)


def empty(node: NodeSessions) -> None:
    """Every port of this node's own blocks is somebody's."""
    account = node.raw_ports.account
    for port in range(account.range.first, account.range.last + 1):
        account.hold(port, "somebody")


async def test_bound_waits_until_siblings_listen(
    node: NodeSessions, chain: Chain, ears: "asyncio.Future[None]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tunnel is there at once, and announced: only its client hears of it later."""
    monkeypatch.setattr(region_addresses, "SIBLINGS_LISTEN_TIME", 30.0)
    client = node.attach()
    client.ask(chain, unencrypted=True)
    assert node.tunnels.live(chain.label) is not None
    await asyncio.sleep(0)
    assert not client.lane.said
    ears.set_result(None)
    await answered(client)
    assert client.bound().unencrypted_port


async def test_bound_does_not_wait_long(node: NodeSessions, chain: Chain, ears: "asyncio.Future[None]") -> None:
    """A sibling that says nothing is not waited for."""
    client = node.attach()
    client.ask(chain, unencrypted=True)
    await answered(client)
    assert client.bound().unencrypted_port
    assert not ears.done()


async def test_a_tunnel_without_a_raw_port_waits_for_nobody(
    node: NodeSessions, chain: Chain, ears: "asyncio.Future[None]"
) -> None:
    """Siblings need not listen for it."""
    assert node.attach().bind(chain).unencrypted_port == 0


async def test_other_requests_are_answered_meanwhile(
    node: NodeSessions, chain: Chain, ears: "asyncio.Future[None]"
) -> None:
    """One that waits stops nobody."""
    client = node.attach()
    client.ask(chain, unencrypted=True)
    client.bind(new_chain())
    ears.set_result(None)
    await until(lambda: bool(client.lane.said))
    assert client.lane.take(Bound).request == 1


async def test_what_was_closed_meanwhile_is_not_answered(
    node: NodeSessions, chain: Chain, ears: "asyncio.Future[None]"
) -> None:
    """UNBIND overtakes BOUND; nothing is left of the tunnel."""
    client = node.attach()
    client.ask(chain, unencrypted=True)
    client.unbind(chain)
    ears.set_result(None)
    await node.addresses.close()
    assert not client.lane.said
    assert node.tunnels.live(chain.label) is None
    assert node.raw_ports.account.held == 0


@pytest.mark.parametrize("end", ["lost", "left"])
async def test_nothing_is_answered_on_another_control_lane(
    node: NodeSessions, chain: Chain, ears: "asyncio.Future[None]", end: str
) -> None:
    """Requests are counted by the lane: a late answer would be another one's."""
    client = node.attach()
    client.ask(chain, unencrypted=True)
    if end == "lost":
        client.lose()
    else:
        client.leave()
    again = node.attach(resume=client.welcome)
    ears.set_result(None)
    await node.addresses.close()
    assert not any(isinstance(said, Bound) for said in [*client.lane.said, *again.lane.said])


async def test_a_bind_that_is_sent_again_is_answered_once(
    node: NodeSessions, chain: Chain, ears: "asyncio.Future[None]"
) -> None:
    """The first one's answer was given up when the second came."""
    client = node.attach()
    client.ask(chain, unencrypted=True)
    client.ask(chain, unencrypted=True)
    ears.set_result(None)
    await answered(client)
    assert client.bound().request == 2
    assert not client.lane.said


async def test_a_tunnel_that_was_taken_over_meanwhile_is_refused(
    node: NodeSessions, chain: Chain, ears: "asyncio.Future[None]"
) -> None:
    """BOUND would say that the client has it, after UNBOUND said that it has not."""
    client, other = node.attach(), node.attach()
    client.ask(chain, unencrypted=True)
    other.ask(chain, 2, unencrypted=True)
    client.lane.said.clear()  # UNBOUND
    ears.set_result(None)
    await answered(client)
    assert client.refused().code == FAILURE_CODE_EPOCH
    assert other.bound().unencrypted_port


async def test_a_ticket_that_a_registry_vouches_for_brings_its_port(make_node: MakeNode, chain: Chain) -> None:
    """Of another node's block, of which this one has heard nothing."""
    node = make_node()
    account = node.raw_ports.account
    account.reserved([], {})
    port = account.range.first + 7
    node.region.known[chain.label] = TunnelInfo(label=chain.label, region="fra", unencrypted_port=port)
    client = node.attach()
    client.ask(chain, 2, ticket=a_ticket(node, chain.label, port), unencrypted=True)
    await answered(client)
    assert client.bound().unencrypted_port == port
    assert node.region.resolved == [chain.label]
    await node.addresses.close()


@pytest.mark.parametrize("known", ["nothing", "another port", "another region"])
async def test_a_ticket_that_nobody_vouches_for_does_not(make_node: MakeNode, chain: Chain, known: str) -> None:
    """The port may be another tunnel's by now: this one gets one of the node's own, or none."""
    node = make_node()
    account = node.raw_ports.account
    account.reserved([], {})
    port = account.range.first + 7
    if known != "nothing":
        region, its_port = ("fra", port + 1) if known == "another port" else ("nyc", port)
        node.region.known[chain.label] = TunnelInfo(label=chain.label, region=region, unencrypted_port=its_port)
    client = node.attach()
    client.ask(chain, 2, ticket=a_ticket(node, chain.label, port), unencrypted=True)
    await answered(client)
    assert client.refused().code == FAILURE_CODE_PORTS
    await node.addresses.close()


async def test_a_client_waits_while_ports_are_reserved(node: NodeSessions, chain: Chain) -> None:
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
    client = node.attach()
    client.ask(chain, unencrypted=True)
    assert not client.lane.said
    await answered(client)
    assert client.bound().unencrypted_port == port
    assert node.region.rooms_asked == 2


async def test_a_client_that_left_while_it_waited_has_nothing(node: NodeSessions, chain: Chain) -> None:
    """Nothing is bound for it afterwards."""
    empty(node)
    client = node.attach()
    client.ask(chain, unencrypted=True)
    client.leave()
    await node.addresses.close()
    assert node.tunnels.live(chain.label) is None


async def test_waiting_requests_count_as_tunnels(make_node: MakeNode) -> None:
    """A client cannot have more of them than it may have tunnels."""
    node = make_node(max_tunnels_per_session=2)
    empty(node)
    client = node.attach()
    for _ in range(3):
        client.ask(new_chain(), unencrypted=True)
    assert "2 tunnels" in client.refused().message
    await node.addresses.close()
