"""Replicas that a test plays, and a node's passages to them."""

from collections.abc import AsyncIterator

import pytest
from portway_carrier.python import PythonCarrier
from portway_carrier.values import Limits
from portway_relay.config import NodeLimits
from portway_testkit.fakes.registry_replicas import BlackHole, PassingNode, Replica


@pytest.fixture
def limits() -> NodeLimits:
    return NodeLimits()


@pytest.fixture
async def stage(limits: NodeLimits) -> AsyncIterator[PassingNode]:
    carrier = PythonCarrier(Limits())
    stage = PassingNode(carrier, limits)
    yield stage
    await stage.passages.close()
    await stage.measuring.close()
    for writer in stage.writers:
        writer.transport.abort()
    await carrier.close()
    assert not stage.failures


@pytest.fixture
async def replicas() -> AsyncIterator[list[Replica]]:
    made = [Replica("r-1"), Replica("r-2")]
    for one in made:
        await one.start()
    yield made
    for one in made:
        await one.stop()


@pytest.fixture
def black_hole() -> BlackHole:
    return BlackHole()
