"""How portway-admin prints what others chose, and times."""

import json

import pytest
from portway_registry.admin_cli.output import print_fields, print_json, print_text, utc_time

HOSTILE = "a\x1b[31mb\nc\u202ed\x9b2J\x7f é"


def test_what_others_chose_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences, C1 and line ends are shown as what they are not, on both outputs."""
    shown = "a\ufffd[31mb\ufffdc\ufffdd\ufffd2J\ufffd é\n"
    print_text(HOSTILE)
    print_text(HOSTILE, err=True)
    print_fields({"version": HOSTILE})
    assert capsys.readouterr() == (shown + "version  " + shown, shown)


def test_json_is_fit_for_a_terminal_and_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Letters of any script stay readable; what steers a terminal is escaped, and read back as it was."""
    print_json({"version": HOSTILE})
    line = capsys.readouterr().out
    assert line.removesuffix("\n").isprintable()
    assert "é" in line
    assert json.loads(line) == {"version": HOSTILE}


def test_times_are_in_utc() -> None:
    """To the second; no time is a dash."""
    assert utc_time(1_700_000_000_999) == "2023-11-14 22:13:20Z"
    assert utc_time(0) == "-"
