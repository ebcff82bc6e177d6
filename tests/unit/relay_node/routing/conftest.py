"""What the tests of this folder stand on."""

from collections.abc import AsyncIterator

import pytest
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.known_routes import KnownRoutes
from portway_testkit.fakes.lookup_peers import Around
from portway_testkit.signers import SessionSigner


@pytest.fixture
def known(clock: ManualClock) -> KnownRoutes:
    return KnownRoutes(clock)


@pytest.fixture
def signer() -> SessionSigner:
    return SessionSigner()


@pytest.fixture
async def around(clock: ManualClock) -> AsyncIterator[Around]:
    failures: list[BaseException] = []
    around = Around(clock, failures)
    yield around
    await around.close()
    assert failures == []
    assert len(around.lookup) == 0
