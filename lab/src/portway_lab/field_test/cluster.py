"""A cluster on machines of its own: set up with the commands of the handbook, a tunnel through it, visits.

Here: the map, and each step of it. Not here: the order (command.py), machines, the Internet.
"""

import json
import re
import time
from pathlib import Path
from typing import Final

from portway_lab.cluster.network import Network, Place, start_network
from portway_lab.cluster.processes import Process, Processes, end_process
from portway_lab.field_test.internet import PARENT, Internet
from portway_lab.field_test.machines import CommandFailed, RunningMachine
from portway_lab.field_test.transcript import Transcript
from portway_lab.field_test.visitors import Visit, VisitFailed, Visitor

DOMAIN: Final = f"tun.{PARENT}"
# Milliseconds of a ping between data centres of these cities.
_DISTANCES: Final = {("fra", "iad"): 90.0, ("fra", "nrt"): 230.0, ("iad", "nrt"): 150.0}
# Addresses of which the embedded GeoIP table knows that they are in these cities; they exist in this network only.
MACHINES: Final = (
    Place("fra-1", "fra", address="46.101.100.1"),
    Place("iad-1", "iad", address="3.208.0.1"),
    Place("nrt-1", "nrt", address="13.112.0.1"),
)
_LAPTOP: Final = Place("laptop", "iad", access=4.0, address="52.0.0.30")
_ROOT: Final = Place("root", "fra", address="193.0.6.1")
_ACME: Final = Place("acme", "iad", address="52.0.0.20")
_RESOLVERS: Final = {
    "fra": Place("resolver-fra", "fra", access=2.0, address="46.101.100.53"),
    "iad": Place("resolver-iad", "iad", access=2.0, address="3.208.0.53"),
    "nrt": Place("resolver-nrt", "nrt", access=2.0, address="54.64.0.53"),
}
_VISITORS: Final = {
    "fra": Place("visitor-fra", "fra", access=6.0, address="46.101.100.99"),
    "iad": Place("visitor-iad", "iad", access=6.0, address="3.208.0.99"),
    "nrt": Place("visitor-nrt", "nrt", access=6.0, address="54.64.0.99"),
}
_PACKAGE: Final = "/root/portway-server.deb"
_CAS: Final = "/usr/local/share/ca-certificates"
_ACME_CA: Final = f"{_CAS}/acme-server.crt"
_ADMIN: Final = (
    *("portway-admin", "--registry", f"{DOMAIN}:443"),
    *("--token-file", "/var/lib/portway-registry/admin-token"),
)
TEXT: Final = "a page of the laptop"
# What a user runs: the server is any, and the two variables are all that it is told of Portway.
_PROGRAM: Final = f"""
import http.server, threading, portway

class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "{len(TEXT)}")
        self.end_headers()
        self.wfile.write(b"{TEXT}")

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Page)
threading.Thread(target=server.serve_forever, daemon=True).start()
with portway.forward(8000) as tunnel:
    print(tunnel.url, flush=True)
    threading.Event().wait()
"""
_URL: Final = re.compile(r"https://\S+")
_RECORD: Final = re.compile(r"^    (\S.*)$", re.MULTILINE)
_OPENS_WITHIN: Final = 60.0
_POLL: Final = 0.05
_UNTIL_CUT: Final = 0.5


class FieldCluster:
    """Its machines, and all that is around them. Every method raises ProcessFailed and CommandFailed."""

    def __init__(self, processes: Processes, package: Path, machines: int) -> None:
        self._processes = processes
        self._package = package
        self._places = MACHINES[:machines]
        self.transcript = Transcript()
        self.network: Network
        self.internet: Internet
        self.machines: dict[str, RunningMachine] = {}
        self.visitors: dict[str, Visitor] = {}
        self._client: Process | None = None
        self._records: list[str] = []  # in the zone above

    @property
    def first(self) -> RunningMachine:
        return self.machines[self._places[0].name]

    def start_network(self) -> None:
        """The places, what the Internet has, and the machines, bare and switched on."""
        around = [_ROOT, _ACME, *_RESOLVERS.values(), *_VISITORS.values()]
        self.network = start_network(
            self._processes, [*self._places, _LAPTOP, *around], _DISTANCES, default_routes=True
        )
        self.internet = Internet(
            self._processes,
            self.network,
            root_place=_ROOT.name,
            acme_place=_ACME.name,
            resolvers=[place.name for place in _RESOLVERS.values()],
        )
        self.internet.start()
        for region, place in _VISITORS.items():
            self.visitors[region] = Visitor(
                self.network,
                place.name,
                resolver=_RESOLVERS[region].address,
                trusted=self.internet.roots,
                folder=self._processes.folder,
            )
        for place in (*self._places, _LAPTOP):
            machine = RunningMachine(
                self._processes, self.network, place.name, resolver=_RESOLVERS[place.region].address
            )
            machine.debian.put(self._package, _PACKAGE)
            # The test's CAs are to these machines what public ones are to others.
            machine.debian.put(self.internet.acme_ca, _ACME_CA)
            machine.debian.put(self.internet.roots, f"{_CAS}/issued.crt")
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
        place, machine = self._places[0], self.first
        printed = self.transcript.command(
            machine,
            *("portway-server", "init", "--domain", DOMAIN, "--region", place.region, "--email", "ops@example.com"),
            *("--acme-directory", self.internet.directory, "--acme-ca", _ACME_CA),
        )
        if records_after:
            machine.run("systemctl", "start", "--no-block", "portway-server")
            with self.transcript.step("the service runs, without the records"):
                self.wait(records_after)
        with self.transcript.step(f"the records are added to the zone {PARENT}"):
            self._records = _RECORD.findall(printed)
            self.internet.delegate(self._records)
        self._start_service(machine)
        line = machine.run("cat", "/var/lib/portway-server/first-client").stdout
        return dict(word.split("=", 1) for word in line.split())

    def join(self, name: str) -> None:
        """A further machine: an invitation on the first one, and its two commands."""
        machine = self.machines[name]
        region = next(place.region for place in self._places if place.name == name)
        invitation = self.transcript.command(self.first, *_ADMIN, "node", "invite", "--region", region, shown=False)
        self.transcript.command(
            machine,
            *("portway-server", "join", DOMAIN, "--region", region),
            secret={"PORTWAY_JOIN": invitation.strip()},
        )
        self._start_service(machine)

    def add_name_servers(self) -> None:
        """What `portway-server status` says of the zone above is done there."""
        printed = self.first.run("portway-server", "status", "--json", check=False).stdout
        found = {one["what"]: one for one in json.loads(printed)["findings"]}["delegation"]
        self.transcript.say(f"fra-1# portway-server status: {found['text']}")
        with self.transcript.step(f"{len(found['more'])} records are added to the zone {PARENT}"):
            self.internet.delegate([*self._records, *found["more"]])

    def _start_service(self, machine: RunningMachine) -> None:
        try:
            self.transcript.command(machine, "systemctl", "enable", "--now", "portway-server")
        except CommandFailed as failure:
            raise CommandFailed(f"{failure}\n{self.log(machine)}") from failure

    def log(self, machine: RunningMachine, lines: int = 60) -> str:
        """The end of the service's log."""
        words = ("journalctl", "--unit", "portway-server", "--output", "cat", "--no-pager", "--lines", str(lines))
        return machine.run(*words, check=False).stdout

    def open_tunnel(self, variables: dict[str, str]) -> str:
        """Run a program with forward() on the laptop, in place of the one before; the tunnel's URL."""
        laptop = self.machines[_LAPTOP.name]
        if self._client is not None:
            end_process(self._client.popen, self._client.name)
            self._processes.forget_ended()
            self._client.log.unlink()
        laptop.run("sh", "-c", "cat >/root/program.py", given=_PROGRAM)
        words = [*laptop.words(variables), "/opt/portway/bin/python3", "-u", "/root/program.py"]
        with self.transcript.step("laptop$ PORTWAY_REGISTRY=… PORTWAY_TOKEN=… python program.py: the URL is there"):
            process = self._client = self._processes.start("program", words)

            def shown() -> str:
                match = _URL.search(process.log.read_text())
                return match[0] if match else ""

            self._processes.wait_until(shown, process, f"had no URL within {_OPENS_WITHIN:.0f} s", _OPENS_WITHIN)
        return shown()

    def visit(self, region: str, url: str) -> Visit:
        """Open the page from a region. Raises VisitFailed for any other page too."""
        visit = self.visitors[region].visit(url)
        if (visit.code, visit.page) != (200, TEXT):
            raise VisitFailed(f"{region}: {visit.code} {visit.page!r}")
        through = next((place.name for place in self._places if place.address == visit.address), visit.address)
        self.transcript.say(
            f"visitor in {region}: the page of {url} through {through}: name {visit.resolved:.2f} s, TLS "
            f"{visit.trusted:.2f} s, page {visit.done:.2f} s"
        )
        return visit

    def switch_off(self, name: str) -> None:
        """A machine without power: it answers nobody from one moment to the next."""
        self.transcript.say(f"{name} is switched off")
        for other in self.network.places:
            if other != name:
                self.network.cut(name, other)
        # What its kernel says when its processes are killed must find the network cut.
        self.wait(_UNTIL_CUT)
        self.machines.pop(name).pull_the_plug()

    def doctor(self) -> str:
        """What `portway-admin doctor` finds on the first machine."""
        return self.first.run(*_ADMIN, "doctor", check=False).stdout

    def wait(self, seconds: float) -> None:
        """Let time pass, with all processes watched."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._processes.check_alive()
            time.sleep(_POLL)
