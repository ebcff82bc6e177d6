"""The command: what it prints, with which code it ends, what a signal does to it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from portway_registry.pki.ca_folder import CaFolder
from portway_relay import cli
from portway_testkit.processes.running_program import RunningProgram
from portway_testkit.processes.service_manager import FakeServiceManager
from portway_testkit.waiting import eventually

_COMMAND = (sys.executable, "-W", "error", "-c", "from portway_relay.cli import main; main()", "serve")


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """A complete command line, with a registry that nobody listens for."""
    pki = tmp_path / "pki"
    authority = CaFolder.create(pki)
    authority.add_node("relay-1")
    authority.add_region("fra", "example.com")
    given = {
        "name": "relay-1",
        "region": "fra",
        "domain": "example.com",
        "listen": "127.0.0.1:0",
        "registry": "127.0.0.1:1",
        "cluster-ca": pki / "ca.crt",
        "cert": pki / "node-relay-1.crt",
        "key": pki / "node-relay-1.key",
        "tls-cert": pki / "region-fra.crt",
        "tls-key": pki / "region-fra.key",
        "raw-ports": "20000-20010",
        "ready-file": tmp_path / "ready.json",
    }
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def code_of(call: Callable[[], object]) -> object:
    with pytest.raises(SystemExit) as caught:
        call()
    return caught.value.code


def test_settings_that_cannot_be_used_end_it_with_two(capsys: pytest.CaptureFixture[str], flags: list[str]) -> None:
    """One line on standard error says which and what to do; there is no traceback."""
    flags[flags.index("--region") + 1] = "Frankfurt!"
    assert code_of(lambda: cli.main(["serve", *flags])) == 2
    told = capsys.readouterr().err
    assert told.startswith("portway-relay: ")
    assert "--region" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(("form", "begins"), [("json", '{"time": "'), ("text", "20")])
def test_a_file_that_is_not_there_ends_it_with_two(flags: list[str], form: str, begins: str) -> None:
    """A certificate is a setting too: it is named, in one line."""
    flags[flags.index("--cert") + 1] = "absent.pem"
    ended = subprocess.run([*_COMMAND, *flags, "--log-format", form], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "absent.pem" in ended.stderr
    assert ended.stderr.startswith(begins)
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["serve", "--no-such-flag"], ["drive"]])
def test_a_command_line_that_makes_no_sense_ends_it_with_two(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """With the usage, as every command does."""
    assert code_of(lambda: cli.main(arguments)) == 2
    assert "usage: portway-relay" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["serve", "--help"]])
def test_what_only_tells_ends_it_with_zero(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """On standard output."""
    assert code_of(lambda: cli.main(arguments)) == 0
    assert "portway-relay" in capsys.readouterr().out


def test_it_starts_with_standard_descriptors_closed(flags: list[str]) -> None:
    """An error that nobody can read is not printed elsewhere."""
    flags[flags.index("--region") + 1] = "Frankfurt!"
    command = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", *_COMMAND, *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (2, b"")


def test_help_names_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """And the three ways to give a setting."""
    code_of(lambda: cli.main(["serve", "--help"]))
    told = " ".join(capsys.readouterr().out.split())
    assert "Exit codes: 0 stopped by a signal, 1 a part failed, 2 settings that cannot be used, 3 an operator" in told
    assert "PORTWAY_RELAY_LISTEN" in told


def test_help_names_every_default(capsys: pytest.CaptureFixture[str]) -> None:
    """And what is required."""
    code_of(lambda: cli.main(["serve", "--help"]))
    told = " ".join(capsys.readouterr().out.split())
    for text in (
        "--name NAME the node's name, unique in the cluster (required)",
        "--raw-ports FIRST-LAST ports for raw TCP tunnels (default 20000-29999)",
        "--log-format FORMAT text or json (default text)",
        "--log-level LEVEL debug, info, warning or error (default info)",
        "--raw-host HOST the host name of raw TCP tunnels; by default REGION.DOMAIN",
    ):
        assert text in told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_zero_even_while_it_starts(flags: list[str], tmp_path: Path, number: int) -> None:
    """It waits for a registry: nothing is ready, and it stops when it is asked to."""
    with RunningProgram([*_COMMAND, *flags], dict(os.environ), tmp_path / "log") as program:
        eventually(lambda: "no registry" in program.errors())
        assert program.stop(number) == 0
        assert "Traceback" not in program.errors()
    assert not (tmp_path / "ready.json").exists()


def test_hangup_reads_the_certificates_again(flags: list[str], tmp_path: Path) -> None:
    """It does not end the node, as SIGHUP would by default. The service manager hears of no readiness while the node
    waits for a registry."""
    with FakeServiceManager() as manager:
        environment = {**os.environ, "NOTIFY_SOCKET": manager.address}
        with RunningProgram([*_COMMAND, *flags], environment, tmp_path / "log") as program:
            eventually(lambda: "no registry" in program.errors())
            os.kill(program.pid, signal.SIGHUP)
            eventually(lambda: "certificates reloaded" in program.errors())
            assert program.stop() == 0
        assert manager.states() == ["STOPPING=1"]
