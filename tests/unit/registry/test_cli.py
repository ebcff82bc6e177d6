"""The command portway-registry: what it prints, and how it ends."""

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from portway_registry.cli import main
from portway_registry.config import SETTINGS
from portway_testkit.clusters.registry import Pki
from portway_testkit.processes.running_program import RunningProgram
from portway_testkit.processes.service_manager import FakeServiceManager
from portway_testkit.waiting import eventually

SERVE = "from portway_registry.cli import main; main()"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTWAY_")}
    command = [sys.executable, "-W", "error", "-c", SERVE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=50, check=False)


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """`serve --help` has a line for each flag, the exit codes, and how to begin."""
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert [one.key for one in SETTINGS.by_key.values() if f"{one.flag} " not in text] == []
    for part in ("Exit codes", "portway-admin pki init", "PORTWAY_REGISTRY_LISTEN"):
        assert part in text


def test_without_a_command_it_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """No command is a usage error."""
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_settings_that_cannot_be_used_end_it_with_two(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An unknown key, a wrong value and a missing certificate are one line and exit code 2."""
    file = tmp_path / "registry.toml"
    file.write_text("lisen = 1\n")
    for arguments, says in (
        (["serve", "--config", str(file)], "'lisen', which is not a setting"),
        (["serve", "--lease-seconds", "x"], "--lease-seconds"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("portway-registry: ")
        assert says in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""


@pytest.mark.parametrize(
    ("program", "arguments", "code"),
    [
        (SERVE, ["serve", "--lease-seconds", "x"], 2),
        ("from portway_registry.admin_cli.start import main; main()", ["--registry", "127.0.0.1:1", "node", "list"], 3),
    ],
)
def test_both_commands_start_with_standard_descriptors_closed(program: str, arguments: list[str], code: int) -> None:
    """An error that nobody can read is not printed elsewhere."""
    command = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", sys.executable, "-W", "error", "-c", program, *arguments]
    environment = {**os.environ, "PORTWAY_ADMIN_TOKEN": "pw_a_b"}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (code, b"")


def test_a_store_file_of_another_program_ends_it_with_two(pki: Pki, tmp_path: Path) -> None:
    """What is found out only while it starts ends the process just so, with no traceback."""
    (tmp_path / "registry.db").write_text("this is no database, and is longer than a header of one" * 20)
    done = run(
        *("serve", "--listen", "127.0.0.1:0", "--mesh-listen", "127.0.0.1:0"),
        *("--tls-cert", str(pki.folder / "registry.crt"), "--tls-key", str(pki.folder / "registry.key")),
        *("--cluster-ca", str(pki.ca), "--store", f"embedded:{tmp_path / 'registry.db'}"),
    )
    assert done.returncode == 2
    assert "is not usable" in done.stderr
    assert "Traceback" not in done.stderr


def _certificate_at(address: str) -> str:
    host, _, port = address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)))


def test_hangup_reads_the_certificates_again(pki: Pki, tmp_path: Path) -> None:
    """It ends nothing. Each port that has files of its own reads them, and new connections are shown what is in them.
    The service manager is told that the registry is ready when it serves, and of the reload and the stop."""
    for name in ("tls", "mesh"):
        for kind in ("crt", "key"):
            shutil.copy(pki.folder / f"registry.{kind}", tmp_path / f"{name}.{kind}")
    ready = tmp_path / "ready.json"
    command = [
        *(
            sys.executable,
            "-W",
            "error",
            "-c",
            SERVE,
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--mesh-listen",
            "127.0.0.1:0",
        ),
        *("--tls-cert", tmp_path / "tls.crt", "--tls-key", tmp_path / "tls.key", "--cluster-ca", pki.ca),
        *("--mesh-tls-cert", tmp_path / "mesh.crt", "--mesh-tls-key", tmp_path / "mesh.key"),
        *("--store", "embedded:memory", "--ready-file", ready),
    ]
    with FakeServiceManager() as manager:
        environment = {**os.environ, "NOTIFY_SOCKET": manager.address}
        with RunningProgram(list(map(str, command)), environment, tmp_path / "log") as program:
            eventually(lambda: manager.states() == ["READY=1"])
            address = json.loads(ready.read_text())["listen"]
            before = _certificate_at(address)
            certificate, key = pki.node("another-registry")
            os.kill(program.pid, signal.SIGHUP)
            eventually(lambda: program.errors().count("certificate reloaded") == 2)
            eventually(lambda: manager.states() == ["READY=1", "RELOADING=1", "READY=1"])
            assert _certificate_at(address) == before
            (tmp_path / "tls.key").write_bytes(key)
            (tmp_path / "tls.crt").write_bytes(certificate)
            os.kill(program.pid, signal.SIGHUP)
            eventually(lambda: program.errors().count("certificate reloaded") >= 4)
            assert _certificate_at(address) != before
            assert program.stop() == 0
        assert manager.states()[-1] == "STOPPING=1"


def test_help_and_version_do_without_grpc() -> None:
    """What only prints imports neither gRPC nor what pages and GeoIP need."""
    script = (
        "import sys\nfrom portway_registry.cli import main\n"
        "try: main(['--version'])\nexcept SystemExit: print(sorted({'grpc', 'aiohttp', 'geoip2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=True)
    printed, imported = done.stdout.splitlines()
    assert printed.startswith("portway-registry ")
    assert imported == "[]"
