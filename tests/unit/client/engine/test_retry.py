"""portway.engine.retry: how long to wait between tries."""

from itertools import islice

import pytest
from portway.engine.retry import FIRST_PAUSE, LONGEST_HINT, LONGEST_PAUSE, hinted, pauses, spread


def test_the_first_try_is_soon_and_all_are_spread() -> None:
    """Each pause after the first is between half of and the whole of one that doubles up to a limit."""
    seen = list(islice(pauses(), 12))
    assert 0 <= seen[0] <= FIRST_PAUSE
    expected = FIRST_PAUSE
    for pause in seen[1:]:
        assert expected / 2 <= pause <= expected
        expected = min(expected * 2, LONGEST_PAUSE)
    assert seen[-1] >= LONGEST_PAUSE / 2


def test_two_clients_do_not_wait_alike() -> None:
    """A node that comes back is not met by all at once."""
    assert list(islice(pauses(), 6)) != list(islice(pauses(), 6))


@pytest.mark.parametrize(("milliseconds", "seconds"), [(0, 0), (1, 0.001), (2_500, 2.5), (2**32 - 1, LONGEST_HINT)])
def test_a_hint_is_honoured_within_bounds(milliseconds: int, seconds: float) -> None:
    """A node that is hostile, or broken, keeps nobody for 50 days."""
    assert hinted(milliseconds) == seconds


def test_clients_that_were_told_the_same_do_not_come_together() -> None:
    """Never before the moment that was named; after it by chance, up to half as long again."""
    moments = [spread(10.0) for _ in range(1000)]
    assert all(10 <= moment <= 15 for moment in moments)
    assert max(moments) - min(moments) > 4
