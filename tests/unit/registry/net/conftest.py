"""What the tests of this folder stand on."""

import pytest
from portway_testkit.fakes.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
