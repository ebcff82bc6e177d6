"""A node from its making to its end, with no registry to be reached: what starts, what is told, what is left."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING, NODE_STATE_READY
from portway_relay.config import NodeConfig
from portway_relay.errors import NodeRemoved
from portway_relay.ingress.public_port import PublicPort
from portway_relay.ingress.raw_visitors import RawVisitors
from portway_relay.mesh.inbound_lanes import InboundLanes
from portway_relay.mesh.peers import Peers
from portway_relay.mesh.sibling_tunnels import SiblingTunnels
from portway_relay.node import Node
from portway_relay.raw_ports.reservation import PortReservation
from portway_relay.raw_ports.sockets import RawPorts
from portway_relay.registry_link.label_questions import LabelQuestions
from portway_relay.registry_link.probing import AddressProber
from portway_relay.registry_link.stream import RegistryStream
from portway_relay.routing.lookup import Lookup
from portway_relay.routing.statement_checks import StatementChecks
from portway_relay.routing.verification import Verification
from portway_relay.sessions.greeter import Greeter
from portway_relay.sessions.sessions import Sessions
from portway_relay.visits import Visits
from portway_runtime.admin_http import AdminHttp
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import CertificateError, ListenError
from portway_testkit.links.carrier_link import until

MakeNode = Callable[..., Node]


@pytest.fixture
async def make_node(node_config: Callable[..., NodeConfig], certificate_files: dict[str, Any]) -> Any:
    """Makes nodes, whose registry is a port that nobody listens on; each is stopped at the end."""
    made: list[Node] = []
    failures: list[BaseException] = []

    def make(**changes: Any) -> Node:
        made.append(Node(node_config(**certificate_files | changes), on_failure=failures.append))
        return made[-1]

    yield make
    for node in made:
        await node.stop()
    assert not failures


async def starting(node: Node) -> "asyncio.Task[None]":
    """A start that waits for a registry, with the public port open."""
    task = asyncio.ensure_future(node.start())
    await until(lambda: bool(node.address.port))
    return task


async def cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def listens(endpoint: Endpoint) -> bool:
    try:
        socket.create_connection((endpoint.host, endpoint.port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


async def get(node: Node, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(f"http://{node.admin_address}{path}") as answer:
        return answer.status, await answer.text()


async def test_bad_certificates_are_found_before_anything_is_opened(make_node: MakeNode, tmp_path: Path) -> None:
    """Made, it has read its files; no port is touched for one that cannot serve."""
    with pytest.raises(CertificateError):
        make_node(cert=tmp_path / "absent.pem")


async def test_it_waits_for_a_registry_and_says_so(make_node: MakeNode) -> None:
    """Health is there from the first moment on: alive, not ready, and why."""
    node = make_node(admin_listen=Endpoint("127.0.0.1", 0))
    task = await starting(node)
    assert await get(node, "/healthz") == (200, "ok\n")
    assert await get(node, "/readyz") == (503, "no registry was reached yet\n")
    status, page = await get(node, "/metrics")
    assert status == 200
    assert "portway_relay_registry_connected 0.0" in page
    await cancelled(task)


async def test_health_is_served_on_both_families(make_node: MakeNode) -> None:
    """`--admin-listen [::]:PORT` is every address."""
    node = make_node(admin_listen=Endpoint("::", 0))
    task = await starting(node)
    assert node.admin_address is not None
    for host in ("127.0.0.1", "::1"):
        assert listens(Endpoint(host, node.admin_address.port))
    await cancelled(task)


async def test_a_start_that_is_given_up_leaves_nothing(make_node: MakeNode) -> None:
    """Cancelled while it waits, as by SIGTERM: every port is free again."""
    node = make_node(admin_listen=Endpoint("127.0.0.1", 0))
    task = await starting(node)
    assert node.admin_address is not None
    assert listens(node.address)
    await cancelled(task)
    assert not listens(node.address)
    assert not listens(node.admin_address)


@pytest.mark.parametrize("which", ["listen", "http_listen", "admin_listen"])
async def test_a_port_that_is_taken_is_told_and_the_others_are_let_go(make_node: MakeNode, which: str) -> None:
    """The error names the address; a node that cannot have all its ports has none."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = Endpoint("127.0.0.1", taken.getsockname()[1])
        node = make_node(**{"admin_listen": Endpoint("127.0.0.1", 0), which: endpoint})
        with pytest.raises(ListenError, match=str(endpoint)) as caught:
            await node.start()
    assert ("--admin-listen" in str(caught.value)) == (which == "admin_listen")
    assert ("--http-listen" in str(caught.value)) == (which == "http_listen")
    assert node.admin_address is None or not listens(node.admin_address)
    assert not node.address.port or not listens(node.address)


async def test_it_may_be_stopped_again_and_without_a_start(make_node: MakeNode) -> None:
    """Whoever cleans up need not know how far it came."""
    node = make_node()
    await node.stop()
    await node.stop()
    other = make_node(admin_listen=Endpoint("127.0.0.1", 0))
    await cancelled(await starting(other))
    await other.stop()


async def test_a_node_that_stops_is_not_ready(make_node: MakeNode) -> None:
    """And tells the registry that it drains."""
    node = make_node()
    assert node._report.info().state == NODE_STATE_READY
    await node.stop()
    assert node.not_ready() == "stopping"
    assert node._report.info().state == NODE_STATE_DRAINING


async def test_a_removed_node_is_not_ready_and_asks_to_be_stopped(
    node_config: Callable[..., NodeConfig], certificate_files: dict[str, Any]
) -> None:
    """At once, and once: what happens then is the order of every stop."""
    failures: list[BaseException] = []
    node = Node(node_config(**certificate_files), on_failure=failures.append)
    node._messages.removed("an operator removed it")
    assert node.not_ready() == "removed from the cluster"
    assert [str(failure) for failure in failures] == ["an operator removed it"]
    assert isinstance(failures[0], NodeRemoved)
    await node.stop()
    assert node.not_ready() == "removed from the cluster"


async def test_a_node_whose_certificate_has_ended_is_not_ready(make_node: MakeNode) -> None:
    """By the registry's clock, since others judge by theirs; its own region's counts as much as its own."""
    node = make_node()
    node._messages.ready.set()
    assert node.not_ready() == ""
    ends = node._base.expiry.ends()
    assert set(ends) == {"node", "fra.example.com"}
    node._base.registry_clock.set(int(max(ends.values()).timestamp() * 1000) + 1000)
    assert node.not_ready() == "this node's certificate has ended"
    assert 'certificate_end_timestamp_seconds{certificate="fra.example.com"}' in node.metrics().decode()


async def test_parts_are_closed_in_order(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection is taken, sessions end, the registry forgets the node, the other nodes leave; health is last."""
    closed: list[str] = []

    def watch(part: type[Any]) -> None:
        close = part.close

        def record(self: Any, *arguments: Any, **options: Any) -> Any:
            closed.append(part.__name__)
            return close(self, *arguments, **options)

        monkeypatch.setattr(part, "close", record)

    ports = (PublicPort, RawPorts, RawVisitors)
    clients = (Greeter, Sessions, PortReservation, Visits, Lookup)
    others = (
        AddressProber,
        LabelQuestions,
        RegistryStream,
        InboundLanes,
        Peers,
        SiblingTunnels,
        Verification,
        StatementChecks,
    )
    order = (*ports, *clients, *others, AdminHttp)
    for part in order:
        watch(part)
    node = make_node(admin_listen=Endpoint("127.0.0.1", 0))
    await node.stop()
    assert closed == [part.__name__ for part in order]


@pytest.mark.parametrize(
    ("changes", "host", "port"),
    [
        pytest.param({}, "127.0.0.1", None, id="where it listens"),
        pytest.param({"advertise": Endpoint("relay.example.com", 443)}, "relay.example.com", 443, id="advertised"),
        pytest.param({"advertise": Endpoint("relay.example.com", 0)}, "relay.example.com", None, id="its own port"),
    ],
)
async def test_the_registry_is_told_where_clients_reach_it(
    make_node: MakeNode, changes: dict[str, Any], host: str, port: int | None
) -> None:
    """The advertised address, which may differ from where it listens."""
    node = make_node(**changes)
    task = await starting(node)
    info = node._report.info()
    assert (info.host, info.port) == (host, port or node.address.port)
    assert info.server_name == "relay-1.node.portway.internal"
    await cancelled(task)


@pytest.mark.parametrize(
    ("changes", "port", "raw_host"),
    [
        pytest.param({}, None, "fra.example.com", id="where it listens"),
        pytest.param({"public_port": 443, "raw_host": "raw.example.com"}, 443, "raw.example.com", id="as visitors see"),
    ],
)
async def test_visitors_are_told_its_public_address(
    make_node: MakeNode, changes: dict[str, Any], port: int | None, raw_host: str
) -> None:
    """Behind a port mapping the public port is another one."""
    node = make_node(**changes)
    task = await starting(node)
    address = node._base.address.public_address()
    assert (address.zone, address.port, address.raw_host) == ("fra.example.com", port or node.address.port, raw_host)
    await cancelled(task)
