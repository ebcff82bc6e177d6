"""One machine whose names and certificates are its own: two commands lead to a URL that is trusted."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from portway_testkit.clusters.pebble import write_settings
from portway_testkit.clusters.server_machines import DOMAIN, ServerMachine, program
from portway_testkit.processes.machines import Machine
from portway_testkit.processes.running_program import RunningProgram, needed
from portway_testkit.waiting import eventually

pytestmark = pytest.mark.timeout(300)

Machines = tuple[ServerMachine, ServerMachine]


class Internet:
    """What is not this cluster's: the zone above its domain with a resolver, and an ACME server."""

    def __init__(self, machine: Machine, folder: Path, server: str) -> None:
        self.machine = machine
        self.folder = folder
        self._server = server
        self._delegation = folder / "delegated"
        self.directory = f"https://{machine.address}:14000/dir"
        self.ca = folder / "acme-ca.pem"
        self._held = ExitStack()

    def __enter__(self) -> "Internet":
        address, pebble = self.machine.address, needed("pebble")
        settings = write_settings(
            self.folder, self.ca, names=(address,), listen=f"{address}:14000", own=f"{address}:15000"
        )
        zone = (program("python"), "-m", "portway_testkit.fakes.parent_zone", self.machine.address, "example.com")
        dns = self._run("dns", *zone, DOMAIN, self._server, self._delegation)
        assert dns.line() == "answers"
        resolver = f"{self.machine.address}:53"
        self._run("acme", pebble, "-strict", "-config", settings, "-dnsserver", resolver)
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def delegate(self) -> None:
        """Add the records that `init` printed at the zone above."""
        self._delegation.touch()

    def roots(self) -> Path:
        """What its certificates are trusted by."""
        file = self.folder / "roots.pem"
        get = ("curl", "-sSk", f"https://{self.machine.address}:15000/roots/0")
        file.write_text(self.machine.run(*get).stdout)
        return file

    def _run(self, name: str, *command: str | Path) -> RunningProgram:
        running = self.machine.program(*command, log=self.folder / f"{name}.log")
        return self._held.enter_context(running)


@pytest.fixture
def internet(machines: Machines, tmp_path: Path) -> Iterator[Internet]:
    one, other = (each.machine for each in machines)
    for machine in (one, other):
        machine.set_file("resolv.conf", f"nameserver {other.address}\n")
        machine.set_file("hosts", "127.0.0.1 localhost\n")
    with Internet(other, tmp_path, one.address) as made:
        yield made


def test_two_commands_lead_to_a_trusted_url_and_one_more_to_a_second_machine(
    machines: Machines, internet: Internet, tmp_path: Path
) -> None:
    """`init` and `up`: the records are added at the zone above while it waits for them, which it says. Then a client
    with the line that is printed, and a visitor that trusts the CA alone, each with a resolver's answers. `join` needs
    the domain's name alone: any node's public port leads to the registry. The new region has its certificate then."""
    first, second = machines
    server = str(program("portway-server"))
    done = first.machine.run(
        *(server, "init", "--domain", DOMAIN, "--region", "fra", "--email", "ops@example.com"),
        *("--acme-directory", internet.directory, "--acme-ca", str(internet.ca), *first.folders()),
    )
    assert done.returncode == 0, done.stderr
    with first.up() as up:
        eventually(lambda: "does not delegate tun.example.com yet" in up.errors(), shown=up.errors)
        status = first.machine.run(server, "status", "--config", first.settings)
        assert status.returncode == 4
        assert re.search(rf"ns1\.{re.escape(DOMAIN)}\. +A +{re.escape(first.machine.address)}", status.stdout)
        internet.delegate()
        line = up.line()
        roots = str(internet.roots())
        client = {**dict(word.split("=", 1) for word in line.split()), "PORTWAY_CA": roots}
        assert client["PORTWAY_REGISTRY"] == DOMAIN
        (tmp_path / "index.html").write_text("hello from the tunnel")
        site = (program("python"), "-m", "http.server", "8000", "--bind", "127.0.0.1", "--directory", tmp_path)
        forwarding = (program("portway"), "forward", "8000")
        with (
            internet.machine.program(*site, log=tmp_path / "site"),
            internet.machine.program(*forwarding, log=tmp_path / "client", environment=client) as forward,
        ):
            found = re.search(r"https://\S+", forward.line())
            assert found is not None
            visit = ("curl", "-sS", "--max-time", "20", "--cacert", roots, found[0])
            eventually(lambda: "hello from the tunnel" in internet.machine.run(*visit).stdout)
        status = first.machine.run(server, "status", "--config", first.settings)
        assert (status.returncode, status.stderr) == (0, ""), status.stdout
        _join(second, _invitation(first, roots), roots)
        with second.up() as other:

            def both_serve() -> bool:
                found = first.machine.run(server, "status", "--config", first.settings)
                return found.returncode == 0 and "ready, region iad" in found.stdout

            eventually(both_serve, shown=other.errors)
            seen = second.machine.run(server, "status", "--config", second.settings)
            assert (seen.returncode, "certificate iad.tun.example.com" in seen.stdout) == (0, True), seen.stdout
            assert other.stop() == 0
        assert up.stop() == 0


def _invitation(first: ServerMachine, roots: str) -> str:
    """As the pages say."""
    token = first.state / "portway-registry" / "admin-token"
    done = first.machine.run(
        *(str(program("portway-admin")), "--registry", f"{DOMAIN}:443", "--ca", roots, "--token-file", str(token)),
        *("node", "invite", "--region", "iad"),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _join(second: ServerMachine, invitation: str, roots: str) -> None:
    done = second.machine.run(
        *(str(program("portway-server")), "join", DOMAIN, "--region", "iad"),
        *("--registry-ca", roots, "--no-dns", *second.folders()),
        environment={"PORTWAY_JOIN": invitation},
    )
    assert done.returncode == 0, done.stderr
