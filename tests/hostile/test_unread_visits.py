"""One client whose own visitors do not read: as much of a node's memory as it can get."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import portway
import pytest
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.origins import TcpOrigin
from portway_testkit.visitors.siege import Besieged, Download, endless
from portway_testkit.visitors.visiting import visit
from portway_testkit.waiting import eventually

# The node and its client start first; then hundreds of visitors, one after the other.
pytestmark = [pytest.mark.shares_sockets, pytest.mark.timeout(240)]

LIMIT = 192  # MiB
TOKENS = 24  # MiB, of one token
VISITORS = 300  # 0.4 MiB each where nothing is cut: 195 MiB in all
CUT = 100  # fewer would hold more than the token may
CUT_VISITS = 'visits_ended_total{outcome="cut"}'
FILLED = 90.0  # seconds: more than 300 visitors' buffers take to be full on a busy machine
SLACK = 25  # MiB that they may bring between two looks, a second apart


@pytest.fixture
def small_node(node_with: Callable[..., AbstractContextManager[Besieged]]) -> Iterator[Besieged]:
    with node_with("--max-memory-mib", str(LIMIT), "--max-buffered-mib-per-token", str(TOKENS)) as node:
        yield node


def test_visitors_that_do_not_read_take_a_share_of_memory(small_node: Besieged, as_client: AsClient) -> None:
    """Beyond it those that hold most are cut, and the node stays below its limit; the tunnel of another token, in use
    all the time, is not touched, nor are its visits."""
    as_client(small_node.environment)
    before = small_node.memory()
    most = 0.0
    with ExitStack() as stack:
        origin = stack.enter_context(TcpOrigin(endless))
        tunnel = stack.enter_context(portway.forward(origin.port))
        download = stack.enter_context(Download(small_node.tunnel, small_node.ca))
        for _ in range(VISITORS):
            stack.enter_context(visit(tunnel, small_node.ca))

        def enough_were_cut() -> bool:
            nonlocal most
            most = max(most, small_node.memory())
            return small_node.metrics().get(CUT_VISITS, 0) >= CUT

        eventually(enough_were_cut, within=FILLED, shown=lambda: small_node.metrics().get(CUT_VISITS))
        eventually(lambda: download.speed() > 0)
        eventually(lambda: is_served(small_node))
        assert small_node.metrics()[CUT_VISITS] <= VISITORS
    print(f"{most:.0f} MiB at most, {before:.0f} before")
    assert most < LIMIT + SLACK


def is_served(node: Besieged) -> bool:
    """Whether a new visitor is: not while memory is above the limit, before enough was cut."""
    try:
        node.served()
    except OSError:
        return False
    return True
