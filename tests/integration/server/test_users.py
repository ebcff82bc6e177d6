"""The registry and the relay as users of their own, which `init` makes."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from portway_testkit.clusters.server_machines import DOMAIN, ServerMachine, program, programs_of
from portway_testkit.processes.machines import with_own_etc

pytestmark = pytest.mark.timeout(240)

NET_BIND_SERVICE = 1 << 10


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter, unlike those of pytest."""
    made = Path(tempfile.mkdtemp(prefix="portway-users-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_each_program_has_a_user_and_no_right_but_the_relay_s_to_low_ports(
    machines: tuple[ServerMachine, ServerMachine], open_folder: Path
) -> None:
    """Neither can read the other's keys and settings. What `up` has joined with is the relay's. The key of a
    certificate is for the user whose program shows it."""
    python = program("python")
    if subprocess.run(["setpriv", "--reuid", "65534", "--clear-groups", python, "-c", ""], check=False).returncode:
        pytest.skip("other users cannot run the programs of this checkout")
    one = machines[0]
    one.folder, etc = open_folder, open_folder / "etc-overlay"
    options = [option for option in one.by_hand("fra") if option != "--same-user"]
    init = with_own_etc(etc, program("portway-server"), "init", "--domain", DOMAIN, *options)
    done = one.machine.run(*init)
    assert done.returncode == 0, done.stderr
    assert "user portway-registry" in done.stdout
    for name, user in ((DOMAIN, "portway-registry"), (f"fra.{DOMAIN}", "portway-relay")):
        handed = one.machine.run(*with_own_etc(etc, "chown", user, open_folder / f"{name}.key"))
        assert handed.returncode == 0, handed.stderr
    command = with_own_etc(etc, program("portway-server"), "up", "--config", one.settings)
    with one.machine.program(*command, log=one.log) as up:
        up.line()
        running = programs_of(up.pid)
        states = {name: _status(pid) for name, pid in running.items()}
        users = {name: state["Uid"].split()[0] for name, state in states.items()}
        assert len({*users.values(), "0"}) == 3
        assert {name: int(state["CapEff"], 16) for name, state in states.items()} == {
            "portway-registry": 0,
            "portway-relay": NET_BIND_SERVICE,
        }
        secrets = {
            "portway-registry": [
                one.state / "portway-registry" / "admin-token",
                one.settings.with_name("registry.toml"),
            ],
            "portway-relay": [
                one.state / "portway-relay" / "current" / "node.key",
                one.settings.with_name("relay.toml"),
            ],
        }
        for owner, files in secrets.items():
            for name, user in users.items():
                for file in files:
                    assert _reads(user, states[name]["Gid"].split()[0], open_folder / file) == (name == owner), (
                        name,
                        file,
                    )
        os.kill(up.pid, signal.SIGTERM)
        assert up.ended() == 0


def _status(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


def _reads(user: str, group: str, file: Path) -> bool:
    command = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", "cat", str(file)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
