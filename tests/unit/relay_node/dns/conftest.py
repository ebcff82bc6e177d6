"""What the tests of this folder stand on."""

import pytest
from portway_testkit.fakes.dns_zone import Asked


@pytest.fixture
def asked() -> Asked:
    return Asked()
