"""The options of scripts/rolling_restart. That it works is in tests/faults."""

import pytest
from portway_lab.rolling_restart.command import _parse


@pytest.mark.parametrize(
    ("arguments", "within"),
    [([], 60), (["--returns", ""], 600), (["--returns=look=20"], 600), (["--returns", "", "--within=5"], 5)],
)
def test_clients_have_as_long_as_their_times_take(arguments: list[str], within: float) -> None:
    """Unless it is said: with the times that clients have by default a minute is too short."""
    assert _parse(arguments).within == within
