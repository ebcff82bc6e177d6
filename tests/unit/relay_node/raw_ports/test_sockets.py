"""Raw ports as sockets: taken, paused, let go, and what is said when there is none."""

import asyncio
import socket
from collections.abc import Callable

import pytest
from portway_relay.config import PortRange
from portway_relay.errors import PortsUsedUp
from portway_relay.raw_ports import sockets as raw_module
from portway_relay.raw_ports.sockets import RawPorts
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError
from portway_runtime.listener import finish
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.raw_ports import REST, own_ports, signed_by
from portway_testkit.links.carrier_link import until

FreePorts = Callable[[int], PortRange]


class Node:
    """Raw ports on loopback, and who connected to them."""

    def __init__(self, ports: PortRange, clock: ManualClock, host: str = "127.0.0.1") -> None:
        self.connected: list[tuple[str, Endpoint]] = []
        self.account = own_ports(ports, clock)
        self.raw = RawPorts(host, self.account, signed_by("here"), self._connected)

    def _connected(self, label: str, sock: socket.socket, peer: Endpoint) -> None:
        self.connected.append((label, peer))
        sock.close()


async def connects(port: int) -> bool:
    """Whether a visitor gets through to the port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def test_a_port_listens_for_its_label(free_ports: FreePorts, clock: ManualClock) -> None:
    """A connection to a taken port is handed on with the label and the visitor's address."""
    node = Node(free_ports(5), clock)
    raw = node.raw.take("a", None)
    assert raw.port in node.account.range
    assert raw.listening
    with socket.create_connection(("127.0.0.1", raw.port)) as visitor:
        await until(lambda: bool(node.connected))
        assert node.connected == [("a", Endpoint(*visitor.getsockname()))]
    raw.release()


async def test_a_wanted_port_is_had_when_it_may_be(free_ports: FreePorts, clock: ManualClock) -> None:
    """The port of a ticket is taken if it is free, and another one if not."""
    ports = free_ports(5)
    node = Node(ports, clock)
    first = node.raw.take("a", signed_by("here")("a", ports.last))
    second = node.raw.take("b", signed_by("here")("b", ports.last))
    assert first.port == ports.last
    assert second.port != ports.last
    for raw in (first, second):
        raw.release()


async def test_a_port_that_another_program_has_is_passed_over(free_ports: FreePorts, clock: ManualClock) -> None:
    """The range may be shared with programs that know nothing of it."""
    ports = free_ports(2)
    node = Node(ports, clock)
    with socket.create_server(("127.0.0.1", ports.first)):
        raw = node.raw.take("a", signed_by("here")("a", ports.first))
        assert raw.port == ports.last
        with pytest.raises(PortsUsedUp):
            node.raw.take("b", None)
        assert node.account.held == 1
    raw.release()


async def test_a_range_that_is_used_up_is_told(free_ports: FreePorts, clock: ManualClock) -> None:
    """The error says how many there are and what the client or the operator can do; a resting port counts as taken."""
    node = Node(free_ports(2), clock)
    taken = [node.raw.take("a", None), node.raw.take("b", None)]
    with pytest.raises(PortsUsedUp, match=r"all 2 raw TCP ports.*try again.*--raw-ports"):
        node.raw.take("c", None)
    taken[0].release()
    with pytest.raises(PortsUsedUp):
        node.raw.take("c", None)
    clock.now += REST
    node.account.confirmed(clock.now, {})
    taken[0] = node.raw.take("c", None)
    for raw in taken:
        raw.release()


async def test_a_host_of_another_machine_is_not_a_port_that_is_taken(clock: ManualClock) -> None:
    """When no port can be opened, one try tells, and the error says why."""
    node = Node(PortRange(20_000, 29_999), clock, host="192.0.2.1")
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1:2\d{4}: Cannot assign"):
        node.raw.take("a", None)
    assert node.account.held == 0


async def test_without_descriptors_one_port_is_tried(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand tries would each fail the same way, while everything else waits."""
    tries: list[Endpoint] = []

    def open_sockets(endpoint: Endpoint) -> list[socket.socket]:
        tries.append(endpoint)
        raise ListenError(f"cannot listen on {endpoint}: Too many open files")

    monkeypatch.setattr(raw_module, "open_sockets", open_sockets)
    node = Node(PortRange(20_000, 29_999), clock)
    with pytest.raises(ListenError, match="Too many open files"):
        node.raw.take("a", None)
    assert len(tries) == 1
    assert node.account.held == 0


async def test_a_paused_port_refuses_and_stays_held(free_ports: FreePorts, clock: ManualClock) -> None:
    """While its client is away nobody gets through and nobody else gets the port; then it listens again."""
    node = Node(free_ports(1), clock)
    raw = node.raw.take("a", None)
    assert await connects(raw.port)
    raw.pause()
    raw.pause()
    assert not raw.listening
    assert not await connects(raw.port)
    with pytest.raises(PortsUsedUp):
        node.raw.take("b", None)
    raw.listen()
    raw.listen()
    assert raw.listening
    assert await connects(raw.port)
    raw.release()


async def test_a_paused_port_that_another_program_took_is_told(free_ports: FreePorts, clock: ManualClock) -> None:
    """Listening again may fail; the port is paused then."""
    node = Node(free_ports(1), clock)
    raw = node.raw.take("a", None)
    raw.pause()
    with socket.create_server(("127.0.0.1", raw.port)):
        with pytest.raises(ListenError, match="Address already in use"):
            raw.listen()
    assert not raw.listening
    raw.release()


async def test_a_released_port_goes_back_to_its_label_at_once(free_ports: FreePorts, clock: ManualClock) -> None:
    """A released port refuses and rests; the label that had it need not wait."""
    node = Node(free_ports(1), clock)
    raw = node.raw.take("a", None)
    port = raw.port
    raw.release()
    assert not await connects(port)
    assert (node.account.held, node.account.resting) == (0, 1)
    again = node.raw.take("a", None)
    assert again.port == port
    assert await connects(port)
    again.release()


async def test_a_node_that_stops_opens_no_port_again(free_ports: FreePorts, clock: ManualClock) -> None:
    """Nor does a tunnel get one that a sibling's visitors still come to: it listens no more in a moment."""
    node = Node(free_ports(2), clock)
    raw = node.raw.take("a", None)
    node.raw.serve(raw.port, "a")
    raw.pause()
    node.raw.open_no_more()
    await finish(node.raw.listeners, within=1.0)
    assert not await connects(raw.port)
    with pytest.raises(ListenError, match="stopping"):
        raw.listen()
    with pytest.raises(ListenError, match="stopping"):
        node.raw.take("b", None)
    node.raw.close()
    assert len(node.raw) == 0
