"""A second machine of a cluster: one command, an invitation, no file."""

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from portway_testkit.clusters.server_machines import DOMAIN, ServerMachine, program
from portway_testkit.own_time import OwnTime
from portway_testkit.processes.service_manager import FakeServiceManager
from portway_testkit.waiting import eventually

pytestmark = pytest.mark.timeout(180)

Machines = tuple[ServerMachine, ServerMachine]


def admin(first: ServerMachine, *words: str) -> str:
    """`portway-admin` on the first machine."""
    token = first.state / "portway-registry" / "admin-token"
    done = first.machine.run(
        *(program("portway-admin"), "--registry", f"{DOMAIN}:7400"),
        *("--ca", str(first.ca_file), "--token-file", str(token), *words),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def join(
    one: ServerMachine, *more: str | Path, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    command = (program("portway-server"), "join", DOMAIN, "--registry-ca", one.ca_file)
    return one.machine.run(*command, *one.by_hand("iad"), *more, environment=environment)


def test_a_further_machine_joins_with_one_command_and_both_are_one_mesh(
    first: ServerMachine, machines: Machines
) -> None:
    """The invitation comes in the environment. The registry's answer says where registries serve nodes. `status` of the
    first machine shows both."""
    second = machines[1]
    with first.up() as up:
        up.line()
        invitation = admin(first, "node", "invite", "--region", "iad")
        joined = join(second, environment={"PORTWAY_JOIN": invitation})
        assert (joined.returncode, joined.stderr) == (0, "")
        relay = (second.folder / "etc" / "relay.toml").read_text()
        for address in (f"{first.machine.address}:7401", f"[{first.machine.ipv6}]:7401"):
            assert f'"{address}"' in relay
        assert invitation.partition("@")[0] not in relay
        with second.up() as other:
            findings = {one["what"]: one for one in findings_of(first)}
            nodes = [one["text"].split(", ")[1] for what, one in findings.items() if what.startswith("node ")]
            assert sorted(nodes) == ["region fra", "region iad"]
            # The first node was given no certificate of the other region.
            assert [what for what, one in findings.items() if one["level"] != "good"] == ["certificate of iad"]
            assert other.stop() == 0
        stopped = second.machine.run(program("portway-server"), "status", "--config", second.settings)
        assert stopped.returncode == 4
        assert "does not run" in stopped.stdout


def test_a_further_machine_does_not_wait_to_be_led_to(first: ServerMachine, machines: Machines, tmp_path: Path) -> None:
    """The zone above names the cluster's first machines; this one answers DNS too, and is ready when it serves."""
    second = machines[1]
    with first.up() as up, FakeServiceManager() as manager:
        up.line()
        invitation = admin(first, "node", "invite", "--region", "iad")
        joined = join(second, "--dns", environment={"PORTWAY_JOIN": invitation})
        assert (joined.returncode, joined.stderr) == (0, "")
        assert "dns_listen" in (second.folder / "etc" / "relay.toml").read_text()
        with second.up({"NOTIFY_SOCKET": manager.address}) as other:
            eventually(lambda: manager.states() == ["READY=1"], shown=lambda: second.log.read_text())
            assert other.stop() == 0


def findings_of(first: ServerMachine) -> list[dict[str, str]]:
    """What `status` of the first machine finds, once both nodes are there."""
    found: list[dict[str, str]] = []

    def both() -> bool:
        done = first.machine.run(program("portway-server"), "status", "--json", "--config", first.settings)
        found[:] = json.loads(done.stdout)["findings"]
        return done.returncode == 3 and sum(one["what"].startswith("node ") for one in found) == 2

    eventually(both, shown=lambda: found)
    return found


@pytest.mark.parametrize("how", ["file", "nothing", "wrong"])
def test_a_join_that_cannot_be_says_why_and_writes_no_settings(
    first: ServerMachine, machines: Machines, tmp_path: Path, how: str
) -> None:
    """Without an invitation, with one that is used or unknown, with none of ours."""
    second = machines[1]
    file = tmp_path / "invitation"
    if how == "nothing":
        done = join(second)
        assert (done.returncode, "PORTWAY_JOIN" in done.stderr) == (2, True)
    elif how == "wrong":
        file.write_text("hello\n")
        done = join(second, "--token-file", file)
        assert (done.returncode, f"--token-file {file} is not an invitation" in done.stderr) == (1, True)
    else:
        with first.up() as up:
            up.line()
            file.write_text(admin(first, "node", "invite", "--region", "fra"))
            done = join(second, "--token-file", file)
        assert done.returncode == 1
        assert "region" in done.stderr
    assert not second.settings.exists()


@pytest.mark.parametrize("how", ["unresolved", "refused", "silent", "untrusted"])
def test_a_registry_that_is_not_reached_is_soon_told(
    machines: Machines, tmp_path: Path, how: str, own_time: OwnTime
) -> None:
    """Each reason by itself, with what to do about it. A person waits."""
    first, second = machines
    file = tmp_path / "invitation"
    file.write_text(f"pwj_abc_{'a' * 32}")
    expected = {
        "unresolved": f"the name {DOMAIN} does not resolve",
        "refused": f"nothing listens at {DOMAIN}:443",
        "silent": f"nothing answers at {DOMAIN}:443. Is port 443 open",
        "untrusted": "its certificate is not from one of the system's CAs",
    }[how]
    if how == "unresolved":  # as a resolver says it of a name that is not there
        second.machine.set_file("hosts", "127.0.0.1 localhost\n")
        second.machine.set_file("nsswitch.conf", "hosts: files\n")
    with ExitStack() as held:
        if how == "silent":  # the kernel takes the connection, and nobody reads
            holder = "import signal, socket; held = socket.create_server(('', 443)); print('here'); signal.pause()"
            listening = first.machine.program(program("python"), "-uc", holder, log=first.log)
            assert held.enter_context(listening).line() == "here"
        if how == "untrusted":
            certificates = first.by_hand("fra")
            done = first.machine.run(program("portway-server"), "init", "--domain", DOMAIN, *certificates)
            assert done.returncode == 0, done.stderr
            held.enter_context(first.up()).line()
        began = own_time()
        command = (program("portway-server"), "join", DOMAIN, "--token-file", file)
        done = second.machine.run(*command, *second.by_hand("iad"))
        took = own_time() - began
    assert done.returncode == 1
    assert expected in done.stderr
    assert took < 20
    assert not second.settings.exists()


def test_a_further_registry_needs_the_etcd_of_the_others(machines: Machines) -> None:
    """An embedded store has one registry."""
    done = join(machines[1], "--registry")
    assert done.returncode == 1
    assert "--etcd" in done.stderr
