"""A node's sessions, made with the limits a test needs and let go after it."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from portway_proto.wire.statements import SigningKey
from portway_relay.config import NodeConfig, PortRange
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.node_sessions import NodeSessions, new_key
from portway_testkit.processes.ports import raw_port_range


@pytest.fixture
async def make_node(node_config: Callable[..., NodeConfig], certificate_files: dict[str, Any]) -> Any:
    """Makes a node's sessions with limits of one's choice; its clock begins now, when its certificates are valid."""
    made: list[NodeSessions] = []

    def make(**limits: Any) -> NodeSessions:
        config = node_config(
            limits=limits,
            raw_ports=PortRange(*raw_port_range()),
            **certificate_files,
        )
        made.append(NodeSessions(config, ManualClock(time.time())))
        return made[-1]

    yield make
    for node in made:
        await node.close()


@pytest.fixture
async def node(make_node: Callable[..., NodeSessions]) -> NodeSessions:
    return make_node()


@pytest.fixture
def key() -> SigningKey:
    return new_key()
