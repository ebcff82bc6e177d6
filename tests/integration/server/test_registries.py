"""Two machines with a registry each, which share an etcd."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from portway_testkit.clusters.etcd import find_etcd
from portway_testkit.clusters.server_machines import DOMAIN, ServerMachine, program, programs_of
from portway_testkit.processes.running_program import RunningProgram
from portway_testkit.waiting import eventually

pytestmark = pytest.mark.timeout(240)

Machines = tuple[ServerMachine, ServerMachine]


@pytest.fixture
def etcd(machines: Machines, tmp_path: Path) -> Iterator[tuple[str, RunningProgram]]:
    """Its URL and its process, on the second machine."""
    machine = machines[1].machine
    url = f"http://{machine.address}:2379"
    data = tmp_path / "etcd"
    command = (find_etcd(), "--data-dir", data, "--listen-client-urls", url, "--advertise-client-urls", url)
    with machine.program(*command, "--listen-peer-urls", "http://127.0.0.1:2380", log=tmp_path / "log") as running:
        eventually(lambda: "ready to serve client requests" in running.errors(), shown=running.errors)
        yield url, running
    shutil.rmtree(data)


def admin(one: ServerMachine, *words: str) -> tuple[int, str]:
    """`portway-admin` on the first machine, at whichever registry has the domain's name."""
    token = one.state / "portway-registry" / "admin-token"
    done = one.machine.run(
        *(str(program("portway-admin")), "--registry", f"{DOMAIN}:7400", "--ca", str(one.ca_file)),
        *("--token-file", str(token), *words),
    )
    return done.returncode, done.stdout


def test_a_second_registry_goes_on_alone_and_a_node_starts_without_any(
    machines: Machines, etcd: tuple[str, RunningProgram]
) -> None:
    """`join --registry` brings no token of an admin there: what the cluster knows is in etcd. A node that has joined
    is started while its registry still waits for the store."""
    first, second = machines
    url, store = etcd
    server = str(program("portway-server"))
    done = first.machine.run(server, "init", "--domain", DOMAIN, "--etcd", url, *first.by_hand("fra"))
    assert done.returncode == 0, done.stderr
    with ExitStack() as held:
        one = held.enter_context(first.up())
        one.line()
        code, invitation = admin(first, "node", "invite", "--region", "iad")
        assert code == 0
        joined = second.machine.run(
            *(server, "join", DOMAIN, "--registry", "--etcd", url, "--registry-ca", str(second.ca_file)),
            *second.by_hand("iad"),
            environment={"PORTWAY_JOIN": invitation},
        )
        assert joined.returncode == 0, joined.stderr
        relay = (second.folder / "etc" / "relay.toml").read_text()
        assert f'registry = ["127.0.0.1:7401", "{first.machine.address}:7401"' in relay
        two = held.enter_context(second.up())
        eventually(lambda: "node serves" in two.errors(), shown=two.errors)
        assert not (second.state / "portway-registry" / "admin-token").exists()
        assert one.stop() == 0
        first.machine.set_file("hosts", f"127.0.0.1 localhost\n{second.machine.address} {DOMAIN}\n")
        code, nodes = admin(first, "node", "list")
        assert (code, "iad" in nodes) == (0, True)
    os.kill(store.pid, signal.SIGSTOP)
    try:
        with first.up() as again:
            eventually(lambda: "waiting for the store" in again.errors(), shown=again.errors)
            assert set(programs_of(again.pid)) == {"portway-registry", "portway-relay"}
    finally:
        os.kill(store.pid, signal.SIGCONT)
