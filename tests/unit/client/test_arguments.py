"""portway.arguments: targets, options, and what the README shows of them."""

import argparse
import re
from pathlib import Path

import pytest
from portway.arguments import Target, target
from portway.cli import main

README = Path(__file__).resolve().parents[3] / "client" / "README.md"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8000", Target(8000)),
        ("db:5432", Target(5432, "db")),
        ("192.0.2.1:1", Target(1, "192.0.2.1")),
        ("[::1]:65535", Target(65535, "::1")),
    ],
)
def test_a_target_is_a_port_or_host_and_port(text: str, expected: Target) -> None:
    """It is written back as it was read."""
    assert target(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    ["", "http", "0", "65536", "-1", "8000.5", "٨", "db:", ":8000", "db:http", "::1:8000", "http://db:80", "1e3"],
)
def test_what_is_no_target_is_refused(text: str) -> None:
    """With a word on how to write one."""
    with pytest.raises(argparse.ArgumentTypeError, match="write"):
        target(text)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_netcheck_takes_a_number_of_seconds(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Above 0; the rest is wrong usage."""
    with pytest.raises(SystemExit) as ended:
        main(["netcheck", f"--timeout={seconds}"])
    assert ended.value.code == 2
    assert "is not a number of seconds above 0" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["forward", "netcheck"])
def test_the_readme_shows_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    options = set(
        re.findall(r"(?<!\S)--[\w-]+", capsys.readouterr().out.partition("options:")[2].partition("exit codes")[0])
    )
    (shown,) = re.findall(rf"^\$ portway {command} [^$`]*\[--timeout[^$`]*", README.read_text(), re.MULTILINE)
    assert set(re.findall(r"--[\w-]+", shown)) == {option for option in options if option != "--help"}
