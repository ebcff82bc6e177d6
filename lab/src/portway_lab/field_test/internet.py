"""What a cluster finds on the Internet: a root of DNS, the zone above its domain, resolvers, an ACME server.

All of it runs in places of the emulated network, and nothing else is known there. Here: these programs and their files.
Not here: the machines of the cluster.
"""

import shutil
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from portway_testkit.clusters.pebble import write_settings

from portway_lab.checkout import ROOT
from portway_lab.cluster.network import Network
from portway_lab.cluster.processes import Process, Processes

PARENT: Final = "example.com"
ACME_NAME: Final = "acme.example.net"
_PROGRAMS: Final = (
    *("systemd-nspawn", "debootstrap", "nsenter", "ss", "dpkg-deb", "help2man"),
    *("unbound", "pebble", "curl"),
)
_ACME_PORT: Final = 443
_ACME_OWN_PORT: Final = 15000
_ANSWERED_WITHIN: Final = 10.0
_STARTS_WITHIN: Final = 20.0
_POLL: Final = 0.05
# Seconds that resolvers keep a delegation. Others have hours, and operators wait for them before a machine may die.
_DELEGATED_FOR: Final = 5
_SOA: Final = "{server} hostmaster.{server} {serial} 3600 600 86400 5"
# What every unbound here has, whether it has zones of its own or looks names up.
_SERVER: Final = """\
server:
    directory: "{folder}"
    username: ""
    chroot: ""
    pidfile: "{folder}/{name}.pid"
    use-syslog: no
    interface: {address}
    access-control: 0.0.0.0/0 allow
    do-ip6: no
    module-config: "iterator"
    num-threads: 1
    # The ACME server asks over TCP: of ten, the default, connections are closed early once five are open.
    incoming-num-tcp: 100
"""
_AUTHORITY: Final = (
    _SERVER
    + """\
{zones}
"""
)
_ZONE: Final = """\
auth-zone:
    name: "{name}"
    zonefile: "{file}"
    for-downstream: yes
    for-upstream: no
    fallback-enabled: no
"""
_RESOLVER: Final = (
    _SERVER
    + """\
    root-hints: "{hints}"
    qname-minimisation: yes
    qname-minimisation-strict: yes
    verbosity: 1
"""
)


class Internet:
    """The programs, once started. `root_place` serves the root and the parent zone, `acme_place` the ACME server;
    `resolvers` are the places of resolvers."""

    def __init__(
        self, processes: Processes, network: Network, *, root_place: str, acme_place: str, resolvers: Sequence[str]
    ) -> None:
        self._processes = processes
        self._network = network
        self._root_place, self._acme_place = root_place, acme_place
        self._resolvers = tuple(resolvers)
        self._folder = processes.folder / "internet"
        self._folder.mkdir()
        self._unbound, self._pebble = _program("unbound"), _program("pebble")
        self._serial = 1
        self._authority: Process | None = None
        self.directory = f"https://{ACME_NAME}/dir"
        self.acme_ca = self._folder / "acme-ca.crt"  # of the ACME server's own certificate
        self.roots = self._folder / "roots.crt"  # of the certificates that it issues

    def start(self) -> None:
        """Start all, and wait until the ACME server answers. Raises ProcessFailed."""
        self._write_zones(())
        self._start_authority()
        hints = self._folder / "root.hints"
        hints.write_text(
            f". 3600 NS a.root.example.\na.root.example. 3600 A {self._network.address(self._root_place)}\n"
        )
        for place in self._resolvers:
            self._start_unbound(place, _RESOLVER, hints=hints)
        self._start_pebble()

    def delegate(self, records: Sequence[str]) -> None:
        """Add records (lines of a zone file) to the zone above the cluster's domain, as its operator does."""
        self._write_zones(records)
        authority = self._authority
        assert authority is not None
        authority.popen.terminate()
        authority.popen.wait(_STARTS_WITHIN)
        self._processes.forget_ended()
        self._start_authority()

    def _write_zones(self, delegation: Sequence[str]) -> None:
        self._serial += 1
        address = self._network.address(self._root_place)
        acme = self._network.address(self._acme_place)
        root = [
            f". 3600 SOA {_SOA.format(server='a.root.example.', serial=self._serial)}",
            ". 3600 NS a.root.example.",
            f"a.root.example. 3600 A {address}",
            f"{PARENT}. 3600 NS ns.{PARENT}.",
            f"ns.{PARENT}. 3600 A {address}",
            f"{ACME_NAME}. 3600 A {acme}",
        ]
        parent = [
            f"{PARENT}. 300 SOA {_SOA.format(server=f'ns.{PARENT}.', serial=self._serial)}",
            f"{PARENT}. 300 NS ns.{PARENT}.",
            f"ns.{PARENT}. 300 A {address}",
            *(_with_ttl(line, _DELEGATED_FOR) for line in delegation),
        ]
        (self._folder / "root.zone").write_text("\n".join(root) + "\n")
        (self._folder / "parent.zone").write_text("\n".join(parent) + "\n")

    def _start_authority(self) -> None:
        zones = _ZONE.format(name=".", file="root.zone") + _ZONE.format(name=PARENT, file="parent.zone")
        self._authority = self._start_unbound(self._root_place, _AUTHORITY, zones=zones)

    def _start_unbound(self, place: str, text: str, **values: object) -> Process:
        address = self._network.address(place)
        file = self._folder / f"{place}.conf"
        file.write_text(text.format(folder=self._folder, name=place, address=address, **values))
        process = self._processes.start(place, [*self._network.prefix(place), self._unbound, "-d", "-c", file])
        self._wait_listening(process, place, 53)
        return process

    def _start_pebble(self) -> None:
        place, resolver = self._acme_place, self._resolvers[0]
        file = write_settings(
            self._folder,
            self.acme_ca,
            names=(ACME_NAME, "localhost"),
            listen=f"0.0.0.0:{_ACME_PORT}",
            own=f"127.0.0.1:{_ACME_OWN_PORT}",
        )
        strict: list[str | Path] = ["-strict", "-config", file, "-dnsserver", f"{self._network.address(resolver)}:53"]
        process = self._processes.start(
            place,
            [*self._network.prefix(place), self._pebble, *strict],
            environment={"PEBBLE_WFE_NONCEREJECT": "20", "PEBBLE_VA_NOSLEEP": "1"},
        )
        for port in (_ACME_PORT, _ACME_OWN_PORT):
            self._wait_listening(process, place, port)
        context = ssl.create_default_context(cafile=self.acme_ca)
        with self._network.inside(place):
            url = f"https://localhost:{_ACME_OWN_PORT}/roots/0"
            with urllib.request.urlopen(url, timeout=_ANSWERED_WITHIN, context=context) as answer:
                self.roots.write_bytes(answer.read())

    def _wait_listening(self, process: Process, place: str, port: int) -> None:
        """Until a TCP port of the place is listened at. Raises ProcessFailed."""
        shown = [*self._network.prefix(place), "ss", "--no-header", "--listening", "--tcp", "--numeric"]
        deadline = time.monotonic() + _STARTS_WITHIN
        while f":{port} " not in subprocess.run(shown, capture_output=True, text=True, check=True).stdout:
            self._processes.check_alive()
            if time.monotonic() > deadline:
                raise process.failure(f"did not listen within {_STARTS_WITHIN:.0f} s")
            time.sleep(_POLL)


def why_not() -> str | None:
    """What is missing on this machine, None if nothing is."""
    missing = [name for name in _PROGRAMS if not _program(name)]
    return f"{', '.join(missing)}: missing; scripts/setup --e2e installs what is needed" if missing else None


def _program(name: str) -> str:
    """The path of a program of the system, or of one that scripts/setup built; "" if it is missing."""
    folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", *map(str, sorted(ROOT.glob(".tools/go-*")))]
    return shutil.which(name, path=":".join(folders)) or ""


def _with_ttl(line: str, seconds: int) -> str:
    name, rest = line.split(None, 1)
    return f"{name} {seconds} {rest}"
