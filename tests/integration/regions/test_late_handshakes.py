"""A server that stops while visitors who are far away are in the middle of their TCP handshake.

On one machine a handshake takes no time. Over a distance the last packet of it is on its way when the server stops.
"""

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from portway_lab.cluster.delay_network import why_not
from portway_lab.cluster.network import Network, Place, start_network
from portway_lab.cluster.processes import Processes
from portway_runtime.endpoints import Endpoint
from portway_runtime.listener import Listener, finish
from portway_runtime.listening import handshakes_in_progress, open_sockets
from portway_testkit.links.carrier_link import until

VISITOR = Place("visitor", "there", access=0.0)
SERVER = Place("server", "here", access=0.0)
DISTANCE = {("here", "there"): 150.0}
VISITORS = 5
PATIENCE = 20.0


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    if reason := why_not():
        pytest.skip(reason)
    with Processes(tmp_path) as processes:
        yield start_network(processes, (VISITOR, SERVER), DISTANCE)


def visit(network: Network, address: tuple[str, int]) -> str:
    """What happens to a visitor."""
    with network.inside("visitor"), socket.socket() as visitor:
        visitor.settimeout(PATIENCE)
        try:
            visitor.connect(address)
        except ConnectionRefusedError:
            return "refused"
        try:
            return visitor.recv(100).decode()
        except ConnectionResetError:
            return "reset"


async def test_their_connections_are_accepted(network: Network) -> None:
    """Those who come later are refused at once, before it has closed."""
    with network.inside("server"), ThreadPoolExecutor(VISITORS + 1) as threads:

        def serve(sock: socket.socket, peer: Endpoint) -> None:
            with sock:
                sock.send(b"served")

        sockets = open_sockets(Endpoint(network.address("server"), 0))
        host, port = sockets[0].getsockname()
        listener = Listener(sockets, serve)
        visits: list[Future[str]] = []

        def one_shakes_hands() -> bool:
            if all(one.done() for one in visits):  # none yet, or they were served while nobody looked
                visits.extend(threads.submit(visit, network, (host, port)) for _ in range(VISITORS))
            return handshakes_in_progress({port})

        await until(one_shakes_hands)
        ending = asyncio.ensure_future(finish([listener], within=PATIENCE))
        await asyncio.sleep(0)
        late = threads.submit(visit, network, (host, port))
        await ending
        outcomes = [await asyncio.wrap_future(one) for one in visits]
        assert "reset" not in outcomes
        assert "served" in outcomes
        assert await asyncio.wrap_future(late) == "refused"
