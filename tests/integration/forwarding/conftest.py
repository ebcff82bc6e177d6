"""Three nodes in two regions inside the test process, tunnels at any of them, visitors at any other."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from portway_relay.config import NodeLimits
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.mesh import connected
from portway_testkit.links.hand_tunnel import Bind, binding
from portway_testkit.waiting import eventually

NAMES = ("fra-1", "fra-2", "iad-1")
LIMITS = NodeLimits(first_bytes_time=0.3, leave_grace=1.0, stop_grace=1.0)
PLANS = tuple(NodePlan(name, name.partition("-")[0], LIMITS) for name in NAMES)


@pytest.fixture
def loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """What the nodes run on."""
    return uvloop.new_event_loop


@pytest.fixture
def mesh(tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Cluster]:
    """One for each test: its lanes stay warm, and which ones there are depends on what came before."""
    with Cluster(tmp_path, PLANS, loop=loop) as cluster:
        eventually(lambda: connected(cluster))
        yield cluster


@pytest.fixture
def bind() -> Iterator[Bind]:
    """Makes tunnels; what is left of them is closed after the test."""
    with binding() as bind:
        yield bind
