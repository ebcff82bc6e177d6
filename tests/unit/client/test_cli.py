"""portway.cli: targets, options, exit codes. What it does as a process is in tests/integration/client."""

import argparse
import signal
from pathlib import Path

import pytest
from portway import cli
from portway.cli import Target, exit_code, main, one_line, target
from portway.errors import (
    Attempt,
    AuthError,
    ConfigError,
    Error,
    InvalidError,
    QuotaError,
    RemoteError,
    TunnelLostError,
    UnreachableError,
)

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


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RemoteError(), 1),
        (Error(), 1),
        (InvalidError(), 2),
        (ConfigError(), 3),
        (AuthError(), 4),
        (QuotaError(), 5),
        (UnreachableError("nobody"), 6),
        (TunnelLostError("https://a.test", AuthError()), 7),
    ],
)
def test_each_kind_of_error_has_a_code_of_its_own(error: Error, code: int) -> None:
    """The README's table has it, too."""
    assert exit_code(error) == code
    assert f"\n| {code} |" in README.read_text()


def test_every_code_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """`portway forward --help` ends with them."""
    with pytest.raises(SystemExit) as ended:
        main(["forward", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for code in range(8):
        assert f"\n  {code}  " in shown


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_netcheck_takes_a_number_of_seconds(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Above 0; the rest is wrong usage."""
    with pytest.raises(SystemExit) as ended:
        main(["netcheck", f"--timeout={seconds}"])
    assert ended.value.code == 2
    assert "is not a number of seconds above 0" in capsys.readouterr().err


def test_attempts_become_one_line() -> None:
    """A message of several lines would be several entries in a log."""
    attempts = (Attempt("a", "1", "refused"), Attempt("b", "2", "silent"))
    assert one_line(UnreachableError("nobody", attempts)) == "nobody: a (1): refused; b (2): silent"
    assert one_line(AuthError("no")) == "no"


def test_every_option_reaches_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """And targets' own hosts go before --host."""
    asked = []

    class Stop(Error):
        pass

    def forward(port: int, **options: object) -> None:
        asked.append((port, options))
        raise Stop("that is enough")

    monkeypatch.setattr(cli, "forward", forward)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    named = {"--host": "db", "--registry": "a:1", "--token": "t", "--ca": "c", "--region": "r", "--timeout": "3.5"}
    named |= {"--strategy": "geoip", "--key": "k"}
    arguments = ["--h2", "--unencrypted", *(word for option in named.items() for word in option)]
    assert main(["forward", "5432", *arguments]) == 1
    assert main(["forward", "other:5432", *arguments]) == 1
    for (port, options), host in zip(asked, ("db", "other"), strict=True):
        assert callable(options.pop("tunnel_lost"))
        assert port == 5432
        assert options == {
            "h2_enabled": True,
            "unencrypted": True,
            "host": host,
            "registry": "a:1",
            "token": "t",
            "ca": "c",
            "region": "r",
            "strategy": "geoip",
            "key": "k",
            "timeout": 3.5,
        }
