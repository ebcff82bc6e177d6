"""Nodes that fall silent while their sockets stay open: noticed, left, and resumed when they are back."""

import asyncio
import logging
from typing import Any

import portway
import pytest
from portway_carrier import select
from portway_carrier.contract import Carrier
from portway_carrier.python import PythonCarrier
from portway_carrier.values import Limits
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.links.link import Link
from portway_testkit.visitors.recovery import label_of

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("environment")]


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is death after about a second instead of ten."""

    def make_carrier() -> Carrier:
        return PythonCarrier(Limits(ping_interval=0.4))

    monkeypatch.setattr(select, "make_carrier", make_carrier)


@pytest.mark.usefixtures("quick_pings")
async def test_a_black_hole_is_noticed_and_left(
    node: FakeNode, second_node: FakeNode, registry: FakeRegistry, echo: Any, exchange: Any, log: Any
) -> None:
    """Sockets open, answers dropped: the node counts as lost, and the URL works again at another one."""
    async with Link(node.port) as link:
        node.via = link.port
        registry.nodes = [node, second_node]
        second_node.after = node
        async with portway.forward(echo.port) as tunnel:
            link.swallow_answers()
            await asyncio.to_thread(log.wait, logging.WARNING, "node one is lost")
            await asyncio.to_thread(second_node.wait, lambda: label_of(tunnel) in second_node.tunnels)
            assert await asyncio.to_thread(exchange, second_node, tunnel.host, b"hello") == b"hello"
            await asyncio.to_thread(log.wait, logging.INFO, "attached to node two")


@pytest.mark.usefixtures("quick_pings")
async def test_a_black_hole_that_mends_is_resumed(node: FakeNode, echo: Any, exchange: Any, log: Any) -> None:
    """With no other node the same one is tried until it answers, and why it does not is logged."""
    async with Link(node.port) as link:
        node.via = link.port
        async with portway.forward(echo.port) as tunnel:
            link.swallow_answers()
            await asyncio.to_thread(log.wait, logging.WARNING, "not attached yet")
            link.mend()
            await asyncio.to_thread(log.wait, logging.INFO, "attached to node one")
            assert await asyncio.to_thread(exchange, node, tunnel.host, b"hello") == b"hello"
            assert node.epochs(label_of(tunnel)) == [1]
