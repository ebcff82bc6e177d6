"""portway.engine.retry: how long to wait between tries."""

from itertools import islice

from portway.engine.retry import FIRST_PAUSE, LONGEST_PAUSE, pauses


def test_the_first_try_is_immediate_and_the_others_are_spread() -> None:
    """Each pause is between half of and the whole of one that doubles up to a limit."""
    seen = list(islice(pauses(), 12))
    assert seen[0] == 0
    expected = FIRST_PAUSE
    for pause in seen[1:]:
        assert expected / 2 <= pause <= expected
        expected = min(expected * 2, LONGEST_PAUSE)
    assert seen[-1] >= LONGEST_PAUSE / 2


def test_two_clients_do_not_wait_alike() -> None:
    """A node that comes back is not met by all at once."""
    assert list(islice(pauses(), 6)) != list(islice(pauses(), 6))
