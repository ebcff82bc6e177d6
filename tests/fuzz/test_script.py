"""scripts/fuzz: its runs can be had again, and so can what it finds."""

from pathlib import Path

import pytest
from portway_lab import fuzz
from portway_testkit.fuzzing.target import Target
from portway_testkit.fuzzing.targets import TARGETS


def _no_x(data: bytes) -> None:
    assert b"x" not in data, "an x"


FRAGILE = Target("fragile", "Whatever the bytes, there is no x.", lambda: (b"abc", b"a" * 500), _no_x)


def test_sound_parsers_pass(capsys: pytest.CaptureFixture[str]) -> None:
    """Every target has its turn and its invariant is shown; the exit code is 0."""
    assert fuzz.main(["--seconds", "0.2", "--seed", "7"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("seed 7, 0.2 s\n")
    for target in TARGETS.values():
        assert target.invariant in shown
    assert "no invariant was broken" in shown


def test_a_failing_input_is_kept_and_fails_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1; the same seed finds the same input; its file breaks the invariant once more."""
    monkeypatch.setitem(TARGETS, "fragile", FRAGILE)
    command = ["--target", "fragile", "--seconds", "30", "--seed", "7", "--out", str(tmp_path)]
    assert fuzz.main(command) == 1
    shown = capsys.readouterr().out
    (kept,) = tmp_path.iterdir()
    assert b"x" in kept.read_bytes()
    assert f"again: scripts/fuzz --target fragile --input {kept}" in shown
    assert "AssertionError: an x" in shown
    assert "of seed 7" in shown

    assert fuzz.main(command) == 1
    assert list(tmp_path.iterdir()) == [kept]
    assert fuzz.main(["--target", "fragile", "--input", str(kept)]) == 1
    capsys.readouterr()
    kept.write_bytes(b"abc")
    assert fuzz.main(["--target", "fragile", "--input", str(kept)]) == 0
    assert capsys.readouterr().out == "fragile takes it\n"


def test_a_seed_that_fails_is_told_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bytes it begins with are tried as they are."""
    fragile = Target("fragile", FRAGILE.invariant, lambda: (b"axe",), _no_x)
    monkeypatch.setitem(TARGETS, "fragile", fragile)
    assert fuzz.main(["--target", "fragile", "--out", str(tmp_path)]) == 1
    assert "fragile is broken by seed input 0: 3 bytes, 61 78 65" in capsys.readouterr().out
