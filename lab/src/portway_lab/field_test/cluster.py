"""A cluster on machines of its own: set up with the commands of the handbook, and looked after by its operator.

Here: each step. Not here: their order (command.py), where everything is (geography.py), machines, the Internet, what
the laptop runs (laptop.py).
"""

import json
import re
import time
import tomllib
from pathlib import Path
from typing import Any, Final

from portway_lab.cluster.network import Network, start_network
from portway_lab.cluster.processes import Processes, ProcessFailed
from portway_lab.field_test.etcd import Etcd
from portway_lab.field_test.geography import ACME, DISTANCES, LAPTOP, RESOLVERS, ROOT, VISITORS, Map
from portway_lab.field_test.internet import PARENT, Internet
from portway_lab.field_test.machines import CommandFailed, RunningMachine
from portway_lab.field_test.transcript import Transcript
from portway_lab.field_test.visitors import Visitor

DOMAIN: Final = f"tun.{PARENT}"
_PACKAGE: Final = "/root/portway-server.deb"
_NEWER_PACKAGE: Final = "/root/portway-server-newer.deb"
_CAS: Final = "/usr/local/share/ca-certificates"
_ACME_CA: Final = f"{_CAS}/acme-server.crt"
_ADMIN_TOKEN: Final = "/var/lib/portway-registry/admin-token"
_ACME_KEY: Final = "/var/lib/portway-registry/acme.key"
_ADMIN: Final = ("portway-admin", "--registry", f"{DOMAIN}:443", "--token-file", _ADMIN_TOKEN)
_RECORD: Final = re.compile(r"^    (\S.*)$", re.MULTILINE)
_READY_WITHIN: Final = 120.0
_POLL: Final = 0.05
_ASKED_EVERY: Final = 0.5
_UNTIL_CUT: Final = 0.5


class FieldCluster:
    """Its machines, and all that is around them. Every method raises ProcessFailed and CommandFailed."""

    def __init__(self, processes: Processes, package: Path, where: Map, shown: dict[Path, str]) -> None:
        """`shown`: folders of this machine that the laptop can read, and where it has them."""
        self._processes = processes
        self._package = package
        self._shown = shown
        self.map = where
        self.transcript = Transcript()
        self.network: Network
        self.internet: Internet
        self.machines: dict[str, RunningMachine] = {}
        self.visitors: dict[str, Visitor] = {}
        self._etcd: Etcd | None = None
        self._records: list[str] = []  # in the zone above
        self._admin: dict[str, str] = {}  # the operator's variables
        self._acme_key: Path | None = None  # a copy of it, which the operator keeps

    @property
    def first(self) -> RunningMachine:
        return self.machines[self.map.machines[0].name]

    @property
    def laptop(self) -> RunningMachine:
        """Of a user, and of the operator."""
        return self.machines[LAPTOP.name]

    def start_network(self) -> None:
        """The places, what the Internet has, and the machines, bare and switched on."""
        around = [ROOT, ACME, *RESOLVERS.values(), *VISITORS.values()]
        self.network = start_network(self._processes, [*self.map.all, LAPTOP, *around], DISTANCES, default_routes=True)
        self.internet = Internet(
            self._processes,
            self.network,
            root_place=ROOT.name,
            acme_place=ACME.name,
            resolvers=[place.name for place in RESOLVERS.values()],
        )
        self.internet.start()
        for region, place in VISITORS.items():
            self.visitors[region] = Visitor(
                self.network,
                place.name,
                resolver=RESOLVERS[region].address,
                trusted=self.internet.roots,
                folder=self._processes.folder,
            )
        if self.map.etcd:
            members = [place for place in self.map.machines if place.name in self.map.etcd]
            self._etcd = Etcd(members, self._processes.folder / "etcd")
        for place in (*self.map.all, LAPTOP):
            machine = RunningMachine(
                self._processes,
                self.network,
                place.name,
                resolver=RESOLVERS[place.region].address,
                shown=self._shown if place is LAPTOP else {},
            )
            machine.debian.put(self._package, _PACKAGE)
            # The test's CAs are to these machines what public ones are to others.
            machine.debian.put(self.internet.acme_ca, _ACME_CA)
            machine.debian.put(self.internet.roots, f"{_CAS}/issued.crt")
            if self._etcd is not None:
                self._etcd.put_into(machine)
            machine.start()
            self.machines[place.name] = machine
        for machine in self.machines.values():
            machine.wait_booted()
            machine.run("update-ca-certificates")

    def install(self, name: str) -> None:
        """Install the package."""
        self.transcript.command(self.machines[name], "dpkg", "--install", _PACKAGE, shown=False)

    def set_up_first(self, records_after: float) -> dict[str, str]:
        """The first machine by its two commands, with the records in the zone above between them, or so many seconds
        after the second one; what its first client is given, as variables."""
        place, machine = self.map.machines[0], self.first
        printed = self.transcript.command(
            machine,
            *("portway-server", "init", "--domain", DOMAIN, "--region", place.region, *self._registry_options(machine)),
        )
        if records_after:
            machine.run("systemctl", "start", "--no-block", "portway-server")
            with self.transcript.step("the service runs, without the records"):
                self.wait(records_after)
        with self.transcript.step(f"the records are added to the zone {PARENT}"):
            self._records = _RECORD.findall(printed)
            self.internet.delegate(self._records)
        self._start_service(machine)
        token = machine.run("cat", _ADMIN_TOKEN).stdout.strip()
        self._admin = {"PORTWAY_REGISTRY": DOMAIN, "PORTWAY_ADMIN_TOKEN": token}
        self._acme_key = self._processes.folder / "acme.key"
        self._acme_key.write_text(machine.run("cat", _ACME_KEY).stdout)
        line = machine.run("cat", "/var/lib/portway-server/first-client").stdout
        return dict(word.split("=", 1) for word in line.split())

    def join(self, name: str, *, registry: bool = False) -> None:
        """A further machine: an invitation, and its two commands."""
        machine = self.machines[name]
        region = next(place.region for place in self.map.all if place.name == name)
        if self.map.machines[0].name in self.machines:
            invitation = self.transcript.command(self.first, *_ADMIN, "node", "invite", "--region", region, shown=False)
        else:
            invitation = self.admin("node", "invite", "--region", region)
        options = ["--registry", *self._registry_options(machine)] if registry else []
        if registry:
            assert self._acme_key is not None
            machine.bring(self._acme_key, "/etc/portway/acme.key", owner="portway-registry")
            options += ["--acme-key-file", "/etc/portway/acme.key"]
        self.transcript.command(
            machine,
            *("portway-server", "join", DOMAIN, "--region", region, *options),
            secret={"PORTWAY_JOIN": invitation.strip()},
        )
        self._start_service(machine)

    def _registry_options(self, machine: RunningMachine) -> list[str]:
        options = ["--email", "ops@example.com", "--acme-directory", self.internet.directory, "--acme-ca", _ACME_CA]
        return options if self._etcd is None else [*options, *self._etcd.bring_secrets(machine)]

    def add_name_servers(self, asked: str | None = None) -> None:
        """What `portway-server status` on a machine with a registry says of the zone above is done there."""
        machine = self.first if asked is None else self.machines[asked]
        printed = machine.run("portway-server", "status", "--json", check=False).stdout
        found = {one["what"]: one for one in json.loads(printed)["findings"]}["delegation"]
        self.transcript.say(f"{machine.place}# portway-server status: {found['text']}")
        if not found["more"]:
            return
        with self.transcript.step(f"{len(found['more'])} records are added to the zone {PARENT}"):
            self._records = list(dict.fromkeys([*self._records, *found["more"]]))
            self.internet.delegate(self._records)

    def remove_name_server(self, address: str) -> None:
        """A machine that is gone is taken out of the zone above."""
        gone = {line.split()[0] for line in self._records if line.split()[-1] == address}
        with self.transcript.step(f"the name server at {address} is taken out of the zone {PARENT}"):
            self._records = [line for line in self._records if gone.isdisjoint(line.split())]
            self.internet.delegate(self._records)

    def _start_service(self, machine: RunningMachine) -> None:
        try:
            self.transcript.command(machine, "systemctl", "enable", "--now", "portway-server")
        except CommandFailed as failure:
            raise CommandFailed(f"{failure}\n{self.log(machine)}") from failure

    def log(self, machine: RunningMachine, lines: int = 60) -> str:
        """The end of the service's log."""
        words = (
            "journalctl",
            "--unit",
            "portway-server",
            "--output",
            "short-iso-precise",
            "--no-pager",
            "--lines",
            str(lines),
        )
        return machine.run(*words, check=False).stdout

    def save_logs(self, folder: Path) -> None:
        """Write the services' logs of all machines that run, a file for each."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, machine in self.machines.items():
            if machine.runs:
                (folder / f"{name}.log").write_text(self.log(machine, 10_000))

    def admin(self, *words: str) -> str:
        """Run portway-admin on the laptop, as the operator; what it prints."""
        return self.transcript.command(self.laptop, "portway-admin", *words, secret=self._admin, shown=False)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The nodes that the registries list, by their machines; empty while no registry answers."""
        asked = self.laptop.run("portway-admin", "--json", "node", "list", environment=self._admin, check=False)
        if asked.returncode:
            return {}
        by_name = self._machines_by_node()
        return {by_name[one["name"]]: one for one in json.loads(asked.stdout)["nodes"] if one["name"] in by_name}

    def node_name(self, machine: str) -> str:
        """The name of a machine's node; "" before it has one. The machine may be off."""
        file = self.machines[machine].root / "etc/portway/relay.toml"
        return str(tomllib.loads(file.read_text())["name"]) if file.exists() else ""

    def wait_ready(self, *names: str, version: str = "") -> None:
        """Return once the nodes of machines take clients; with `version`, once they are of it."""
        deadline = time.monotonic() + _READY_WITHIN
        while True:
            nodes = self.nodes()
            if all(_is_ready(nodes.get(name), version) for name in names):
                return
            if time.monotonic() > deadline:
                logs = "\n".join(self.log(self.machines[name], 20) for name in names)
                raise ProcessFailed(f"not ready after {_READY_WITHIN:.0f} s: {', '.join(names)} of {nodes}\n{logs}")
            self.wait(_ASKED_EVERY)

    def home(self, url: str) -> str:
        """The machine that holds the tunnel of a URL, once a registry shows it."""
        deadline = time.monotonic() + _READY_WITHIN
        while True:
            words = ("--json", "tunnel", "show", url)
            asked = self.laptop.run("portway-admin", *words, environment=self._admin, check=False)
            if asked.returncode == 0:
                return self._machines_by_node()[json.loads(asked.stdout)["tunnel"]["node"]]
            if time.monotonic() > deadline:
                raise ProcessFailed(f"no registry shows the tunnel after {_READY_WITHIN:.0f} s: {asked.stderr}")
            self.wait(_ASKED_EVERY)

    def upgrade(self, name: str, package: Path, version: str) -> None:
        """Install a newer package, whose services are started again, and wait until the node is back."""
        machine = self.machines[name]
        machine.bring(package, _NEWER_PACKAGE)
        self.transcript.command(machine, "dpkg", "--install", _NEWER_PACKAGE, shown=False)
        with self.transcript.step(f"{name} is ready, with {version}"):
            self.wait_ready(name, version=version)

    def switch_off(self, *names: str) -> float:
        """Machines without power: they answer nobody from one moment to the next, which is returned."""
        self.transcript.say(f"{' and '.join(names)}: switched off")
        for name in names:
            for other in self.network.places:
                if other != name:
                    self.network.cut(name, other)
        at = time.monotonic()
        # What a kernel says when its processes are killed must find the network cut.
        self.wait(_UNTIL_CUT)
        for name in names:
            self.machines[name].pull_the_plug()
        return at

    def switch_on(self, *names: str) -> None:
        """Machines have power again; returns once their nodes take clients."""
        with self.transcript.step(f"{' and '.join(names)}: switched on, until ready"):
            for name in names:
                for other in self.network.places:
                    if other != name:
                        self.network.mend(name, other)
                self.machines[name].start()
            for name in names:
                self.machines[name].wait_booted()
            self.wait_ready(*names)

    def wait(self, seconds: float) -> None:
        """Let time pass, with all processes watched."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._processes.check_alive()
            time.sleep(_POLL)

    def _machines_by_node(self) -> dict[str, str]:
        return {self.node_name(name): name for name in self.machines if name != LAPTOP.name}


def _is_ready(node: dict[str, Any] | None, version: str) -> bool:
    return node is not None and node["state"] == "ready" and version in ("", node["version"])
