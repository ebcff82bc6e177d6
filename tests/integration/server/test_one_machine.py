"""One machine, set up and run by its two commands, with certificates from elsewhere."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
from portway_testkit.clusters.server_machines import DOMAIN, ServerMachine, environment_of, program, programs_of
from portway_testkit.processes.children import has_ended
from portway_testkit.processes.service_manager import FakeServiceManager
from portway_testkit.waiting import eventually

pytestmark = pytest.mark.timeout(180)

Machines = tuple[ServerMachine, ServerMachine]
LINE = re.compile(rf"PORTWAY_REGISTRY={re.escape(DOMAIN)} PORTWAY_TOKEN=pw_\w+")


def test_a_machine_is_found_out(machines: Machines) -> None:
    """Its addresses of both families, its position from GeoIP; the records for the parent zone are printed."""
    one = machines[0]
    done = one.machine.run(
        *(program("portway-server"), "init", "--domain", DOMAIN, "--region", "fra", "--email", "ops@example.com"),
        *one.folders(),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{DOMAIN}.      NS    ns1.{DOMAIN}." in done.stdout
    for kind, address in (("A   ", one.machine.address), ("AAAA", one.machine.ipv6)):
        assert f"ns1.{DOMAIN}.  {kind}  {address}" in done.stdout
    assert re.search(r"Position +-?\d+, -?\d+", done.stdout)
    relay = (one.folder / "etc" / "relay.toml").read_text()
    assert f'dns_listen = ["{one.machine.address}:53", "[{one.machine.ipv6}]:53"]' in relay
    again = one.machine.run(
        *(program("portway-server"), "init", "--domain", DOMAIN, "--region", "fra", "--email", "ops@example.com"),
        *one.folders(),
    )
    assert again.returncode == 1
    assert "set up already" in again.stderr
    assert (one.folder / "etc" / "relay.toml").stat().st_mode & 0o777 == 0o640


def test_a_port_that_is_taken_is_named_with_its_program(machines: Machines) -> None:
    """Before anything is written."""
    one = machines[0]
    holder = "import signal, socket; held = socket.create_server(('', 443)); print('here', flush=True); signal.pause()"
    with one.machine.program(program("python"), "-c", holder, log=one.log) as held:
        assert held.line() == "here"
        done = one.machine.run(program("portway-server"), "init", "--domain", DOMAIN, *one.by_hand("fra"))
    assert done.returncode == 1
    assert re.search(r"TCP port 443 \(visitors and clients\) is taken by python\S* \(pid \d+\)", done.stderr)
    assert not one.settings.exists()


def test_one_machine_serves_and_prints_the_first_client_s_line(first: ServerMachine, tmp_path: Path) -> None:
    """Nothing else is printed; with it a client opens a tunnel, and a visitor gets the page. The next start prints
    where that line is, without the token, and the node needs no other invitation."""
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("hello from the tunnel")
    with first.up() as up:
        line = up.line()
        assert LINE.fullmatch(line), line
        assert set(programs_of(up.pid)) == {"portway-registry", "portway-relay"}
        token = line.rpartition("=")[2]
        client = {"PORTWAY_REGISTRY": f"{DOMAIN}:7400", "PORTWAY_TOKEN": token, "PORTWAY_CA": str(first.ca_file)}
        site = (program("python"), "-m", "http.server", "8000", "--bind", "127.0.0.1", "--directory", page)
        tunnel = (program("portway"), "forward", "8000")
        with (
            first.machine.program(*site, log=tmp_path / "site"),
            first.machine.program(*tunnel, log=tmp_path / "client", environment=client) as forward,
        ):
            found = re.search(r"https://\S+", forward.line())
            assert found is not None
            host = found[0].removeprefix("https://")
            assert host.endswith(f".fra.{DOMAIN}")
            where = f"{host}:443:{first.machine.ipv6}"
            visit = ("curl", "-sS", "--max-time", "20", "--cacert", first.ca_file, "--resolve", where, found[0])
            eventually(lambda: "hello from the tunnel" in first.machine.run(*visit).stdout)
        assert up.stop() == 0
        assert up.rest() == ""
    with first.up() as up:
        kept = first.state / "portway-server" / "first-client"
        assert up.line() == f"PORTWAY_REGISTRY={DOMAIN}  # PORTWAY_TOKEN is in {kept}"
        assert kept.read_text().strip() == line
        assert up.stop(signal.SIGINT) == 0
        assert up.rest() == ""
    assert first.log.read_text().count("joined the cluster") == 1


def test_the_programs_are_given_no_secret_of_the_environment(first: ServerMachine) -> None:
    """The relay faces strangers, and an operator's shell has more in it than the relay's settings."""
    secrets = {"PORTWAY_JOIN": "pwj_a_b", "AWS_SECRET_ACCESS_KEY": "secret"}
    settings = {"PORTWAY_REGISTRY_MAX_TUNNELS": "7", "PORTWAY_RELAY_MAX_SESSIONS": "77"}
    with first.up(secrets | settings | {"LANG": "C.UTF-8"}) as up:
        up.line()
        given = {name: environment_of(pid) for name, pid in programs_of(up.pid).items()}
        assert up.stop() == 0
    assert not [name for one in given.values() for name in secrets if name in one]
    assert {one["LANG"] for one in given.values()} == {"C.UTF-8"}
    assert {name: settings.keys() & one.keys() for name, one in given.items()} == {
        "portway-registry": {"PORTWAY_REGISTRY_MAX_TUNNELS"},
        "portway-relay": {"PORTWAY_RELAY_MAX_SESSIONS"},
    }


@pytest.mark.parametrize("killed", ["portway-registry", "portway-relay"])
def test_when_one_fails_both_stop_with_the_reason(first: ServerMachine, killed: str) -> None:
    """The exit code says that a part failed, so that systemd starts both again."""
    with first.up() as up:
        up.line()
        running = programs_of(up.pid)
        os.kill(running[killed], signal.SIGKILL)
        assert up.ended() == 1
        assert all(has_ended(pid) for pid in running.values())
        assert f"{killed} was ended by signal 9" in up.errors()


def test_a_program_s_settings_that_cannot_be_used_end_it_with_its_reason(first: ServerMachine) -> None:
    """And with its code."""
    relay = first.folder / "etc" / "relay.toml"
    relay.write_text(relay.read_text().replace("fra.tun.example.com.crt", "missing.crt"))
    with first.up() as up:
        assert up.ended() == 2
        last = up.errors().splitlines()[-1]
        assert "missing.crt" in up.errors()
        assert "registry stopped" in last or "portway-relay ended with exit code 2" in up.errors()


def test_nothing_outlives_a_killed_up(first: ServerMachine) -> None:
    """The kernel tells them."""
    with first.up() as up:
        up.line()
        running = programs_of(up.pid)
        os.kill(up.pid, signal.SIGKILL)
        for pid in running.values():
            eventually(lambda: has_ended(pid))


def test_a_service_manager_is_told_and_the_line_is_in_a_file(first: ServerMachine) -> None:
    """Once all is ready; standard output, which is the journal, has no secret. SIGHUP reaches both programs. With a log
    of JSON all three programs write an object a line."""
    for name in ("server", "registry", "relay"):
        file = first.folder / "etc" / f"{name}.toml"
        file.write_text(file.read_text() + 'log_format = "json"\n')
    with FakeServiceManager() as manager:
        with first.up({"NOTIFY_SOCKET": manager.address}) as up:
            eventually(lambda: manager.states() == ["READY=1"])
            os.kill(up.pid, signal.SIGHUP)
            eventually(lambda: manager.states() == ["READY=1", "RELOADING=1", "READY=1"])
            eventually(lambda: up.errors().count("certificate reloaded") >= 1)
            assert up.stop() == 0
            assert up.rest() == ""
        assert manager.states()[-1] == "STOPPING=1"
    kept = first.state / "portway-server" / "first-client"
    assert LINE.fullmatch(kept.read_text().strip())
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.read_text().strip().rpartition("=")[2] not in first.log.read_text()
    loggers = {json.loads(line)["logger"].partition(".")[0] for line in first.log.read_text().splitlines()}
    assert loggers == {"portway_server", "portway_registry", "portway_relay"}


def test_it_starts_without_the_first_admin_s_token(first: ServerMachine) -> None:
    """Operators revoke it once they have others, and delete the first client's line when it is handed on."""
    tokens = first.state / "portway-registry" / "admin-token"

    def admin(*words: str) -> str:
        options = ("--registry", f"{DOMAIN}:7400", "--ca", str(first.ca_file), "--token-file", str(tokens))
        done = first.machine.run(program("portway-admin"), *options, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with first.up() as up:
        up.line()
        admin("token", "create", "--tenant", "admins", "--role", "admin")
        admin("token", "revoke", tokens.read_text().split("_")[1])
        (first.state / "portway-server" / "first-client").unlink()
        assert up.stop() == 0
    with FakeServiceManager() as manager:
        with first.up({"NOTIFY_SOCKET": manager.address}) as up:
            eventually(lambda: manager.states() == ["READY=1"], shown=lambda: first.log.read_text())
            assert up.stop() == 0


def test_it_runs_nothing_before_it_is_set_up(machines: Machines) -> None:
    """And says what sets it up."""
    done = machines[0].machine.run(program("portway-server"), "up", "--config", machines[0].settings)
    assert done.returncode == 2
    assert "portway-server init" in done.stderr
