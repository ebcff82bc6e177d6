"""How portway-admin prints what others chose, and times."""

from portway_registry.admin_cli.output import printable, utc_time


def test_what_others_chose_cannot_steer_the_terminal() -> None:
    """Escape sequences and line ends are shown as what they are not."""
    assert printable("a\x1b[31mb\nc\u202ed é") == "a\ufffd[31mb\ufffdc\ufffdd é"


def test_times_are_in_utc() -> None:
    """To the second; no time is a dash."""
    assert utc_time(1_700_000_000_999) == "2023-11-14 22:13:20Z"
    assert utc_time(0) == "-"
