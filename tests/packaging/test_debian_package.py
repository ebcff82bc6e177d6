"""The Debian package, in a bare Debian without network: installed, upgraded, removed, purged."""

import importlib.metadata
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from portway_lab import bare_debian
from portway_lab.bare_debian import Machine
from portway_lab.checkout import ROOT
from portway_lab.release import bill_of_materials, deb, distributions, tree
from portway_lab.release.source import Source, copy
from portway_testkit.processes.running_program import needed

PROGRAMS = ["portway", "portway-admin", "portway-registry", "portway-relay", "portway-server"]
USERS = ["portway-registry", "portway-relay"]
# A registry and a node by hand, as deploy/README.md has it, with a certificate authority that is made on the spot.
SERVE = """
echo 127.0.0.1 localhost >/etc/hosts
dpkg --install /root/package.deb
cd /root
portway-admin pki init --dir pki --domain tunnels.example.com --region fra --registry-host localhost
for name in registry.crt registry.key; do install -g portway-registry -m 640 pki/$name /etc/portway/; done
install -g portway-relay -m 640 pki/region-fra.crt /etc/portway/fra.crt
install -g portway-relay -m 640 pki/region-fra.key /etc/portway/fra.key
install -m 644 pki/ca.crt /etc/portway/
examples=/usr/share/doc/portway-server/examples
install -g portway-registry -m 640 $examples/registry.toml /etc/portway/
echo 'check_addresses = "no"' >>/etc/portway/registry.toml
sed 's/registry.example.com/localhost/; s/fra-1.example.com/localhost/' $examples/relay.toml >/etc/portway/relay.toml
echo 'registry_ca = "/etc/portway/ca.crt"' >>/etc/portway/relay.toml
systemctl start portway-registry
PORTWAY_ADMIN_TOKEN=$(cat /var/lib/portway-registry/admin-token)
export PORTWAY_ADMIN_TOKEN PORTWAY_REGISTRY=localhost:7400 PORTWAY_CA=/root/pki/ca.crt
portway-admin node invite --region fra >/etc/portway/invitation
chgrp portway-relay /etc/portway/invitation && chmod 640 /etc/portway/invitation
systemctl start portway-relay
for unit in portway-registry portway-relay; do
    test "$(ps_user $unit)" = $unit
done
"""
# The user and the pid of a service's program.
KNOW = """
pid() { systemctl show --property MainPID --value $1; }
ps_user() { stat --format=%U /proc/$(pid $1); }
"""
# Writing the pages of all commands, and a Debian from packages, take most of it.
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True, slots=True)
class Built:
    source: Source
    wheels: Path
    tree: tree.Tree
    package: Path
    newer: Path  # the same with a higher version


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    for name in ("dpkg-deb", "help2man"):
        needed(name)
    folder = tmp_path_factory.mktemp("release")
    source = copy(ROOT, folder / "source")
    wheels = folder / "wheels"
    distributions.build(source, wheels)
    made = tree.build(source, wheels, folder / "package" / "root", deb.PACKAGES)
    package = deb.build(source, made, folder)
    return Built(source, wheels, made, package, deb.build(source, made, folder, f"{source.version}+newer"))


@pytest.fixture(scope="module", autouse=True)
def base() -> None:
    """Made while nothing is measured."""
    needed("debootstrap")
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a bare Debian")
    bare_debian.base()


@pytest.fixture
def machine(built: Built, tmp_path: Path) -> Machine:
    """With both packages in /root."""
    machine = Machine(tmp_path / "machine")
    machine.put(built.package, "/root/package.deb")
    machine.put(built.newer, "/root/newer.deb")
    return machine


def files(machine: Machine) -> set[str]:
    """The paths of a machine, but for dpkg's own books, logs, and back-ups of the list of users."""
    found = machine.run(["find", "/", "-xdev", "!", "-path", "/var/lib/dpkg/*", "!", "-path", "/var/log/*"]).stdout
    return {path for path in found.splitlines() if not re.fullmatch(r"/etc/(passwd|group|g?shadow|sub[ug]id)-", path)}


def users(machine: Machine) -> list[str]:
    return re.findall(r"^(portway[a-z-]*):", machine.run(["cat", "/etc/passwd"]).stdout, re.MULTILINE)


def test_two_packages_of_one_commit_are_the_same(built: Built, tmp_path: Path) -> None:
    """Compiled modules and man pages too, wherever they are built."""
    source = copy(ROOT, tmp_path / "source")
    again = tree.build(source, built.wheels, tmp_path / "package" / "root", deb.PACKAGES)
    distributions.demand_same([built.package], [deb.build(source, again, tmp_path)])


def test_the_package_says_what_it_needs_and_names_no_place_of_the_build(built: Built) -> None:
    """The system's Python in one minor version; no path of the machine that built it; nobody's files but root's."""
    fields = _printed("dpkg-deb", "--field", built.package)
    major, minor = built.tree.python
    assert f"python3 (>= {major}.{minor}~), python3 (<< {major}.{minor + 1}~)" in fields
    assert f"Version: {built.source.version}\n" in fields
    listed = _printed("dpkg-deb", "--contents", built.package).splitlines()
    assert all(re.match(r"(d|-)rw[x-]r-[x-]r-[x-] root/root |lrwxrwxrwx root/root ", line) for line in listed)
    place = str(built.tree.root).encode()
    naming = [path for path in built.tree.root.rglob("*") if path.is_file() and place in path.read_bytes()]
    assert naming == []


def test_everything_in_the_package_is_in_the_bill_of_materials(built: Built, tmp_path: Path) -> None:
    """By name and version, as the environment itself lists them."""
    file = bill_of_materials.write(built.source, built.wheels.glob("*.whl"), tmp_path)
    listed = {(one["name"], one["version"]) for one in json.loads(file.read_text())["components"]}
    found = importlib.metadata.distributions(path=[str(path) for path in built.tree.prefix.glob("lib/*/site-packages")])
    inside = {(re.sub(r"[-_.]+", "-", one.name).lower(), one.version) for one in found}
    assert len(inside) > 20
    assert inside <= listed


def test_it_is_installed_without_a_registry_of_packages(built: Built, machine: Machine) -> None:
    """Every program runs, as the users that the package made; nothing is started; every module is compiled."""
    machine.run(["dpkg", "--install", "/root/package.deb"])
    assert users(machine) == USERS
    for program in PROGRAMS:
        assert built.source.version in machine.run([program, "--version"]).stdout
        machine.run(["test", "-s", f"/usr/share/man/man1/{program}.1.gz"])
    for user in USERS:
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", user, "serve", "--help"]
        assert "usage:" in machine.run(command).stdout
    units = machine.run(["systemctl", "list-unit-files", "portway*"]).stdout
    assert re.findall(r"^(portway\S+)\.service\s+disabled", units, re.MULTILINE) == sorted(
        path.stem for path in (ROOT / "deploy" / "systemd").glob("*.service")
    )
    assert machine.run(["ls", "/etc/portway"]).stdout == ""
    imported = (
        "import importlib, pkgutil, portway, portway_relay, portway_registry, portway_server\n"
        "for top in portway, portway_relay, portway_registry, portway_server:\n"
        "    for module in pkgutil.walk_packages(top.__path__, top.__name__ + '.'):\n"
        "        if not module.name.endswith('__main__'):\n"
        "            importlib.import_module(module.name)\n"
    )
    before = files(machine)
    machine.run(["/opt/portway/bin/python3", "-c", imported])
    assert files(machine) == before, "what runs as root leaves compiled modules that dpkg does not know"


def test_the_pages_say_what_every_command_prints(built: Built, machine: Machine) -> None:
    """A page has the help of the program, and of its commands and theirs."""
    pages = built.tree.root / "usr" / "share" / "man" / "man1"
    shown = _printed("zcat", pages / "portway-admin.1.gz")
    sections = re.findall(r'^\.SH "?([A-Z -]+?)"?$', shown, re.MULTILINE)
    assert {"PORTWAY-ADMIN NODE", "PORTWAY-ADMIN NODE INVITE", "PORTWAY-ADMIN TOKEN CREATE"} <= set(sections)
    relay = _printed("zcat", pages / "portway-relay.1.gz")
    assert r"\-\-state\-dir DIR" in relay
    assert '.SH "PORTWAY-RELAY SERVE"' in relay


def test_settings_and_state_stay_until_it_is_purged(built: Built, machine: Machine) -> None:
    """Through an upgrade, removal and being installed again; after the purge the machine is as it was before."""
    before = files(machine)
    machine.run(["dpkg", "--install", "/root/package.deb"])
    machine.run(["systemctl", "enable", *USERS])
    kept = ["/etc/portway/relay.toml", "/var/lib/portway-registry/registry.db", "/var/lib/portway-relay/node.key"]
    for path in kept:
        machine.run(["sh", "-c", f"mkdir -p {Path(path).parent} && echo mine > {path}"])

    machine.run(["dpkg", "--install", "/root/newer.deb"])
    assert "+newer" in machine.run(["dpkg-query", "--show", "portway-server"]).stdout
    enabled = machine.run(["systemctl", "is-enabled", *USERS]).stdout.split()
    assert enabled == ["enabled"] * len(USERS)
    assert machine.run(["cat", *kept]).stdout == "mine\n" * len(kept)

    machine.run(["dpkg", "--remove", "portway-server"])
    assert machine.run(["cat", *kept]).stdout == "mine\n" * len(kept)
    assert users(machine) == USERS, "whose files are still there"
    left = {path for path in files(machine) - before if "portway" in path}
    assert all(path.startswith(("/etc/portway", "/var/lib/portway")) for path in left)

    machine.run(["dpkg", "--install", "/root/newer.deb"])
    assert machine.run(["cat", *kept]).stdout == "mine\n" * len(kept)
    assert users(machine) == USERS

    machine.run(["dpkg", "--purge", "portway-server"])
    assert users(machine) == []
    assert files(machine) == before


def test_services_go_on_as_what_was_installed(built: Built, machine: Machine) -> None:
    """Under systemd: both serve as their users, an upgrade restarts what runs and nothing else, removal stops it."""
    upgrade = """
for unit in portway-registry portway-relay; do pid $unit >/root/$unit; done
dpkg --install /root/newer.deb
for unit in portway-registry portway-relay; do
    until [ "$(pid $unit)" != "$(cat /root/$unit)" ] && systemctl is-active $unit; do sleep 0.1; done
done
until portway-admin node show fra-1; do sleep 0.1; done
systemctl stop portway-relay
dpkg --install /root/package.deb
test "$(systemctl is-active portway-relay)" = inactive
dpkg --remove portway-server
test "$(systemctl is-active portway-registry)" = inactive
test -s /var/lib/portway-registry/registry.db
"""
    needed("systemd-nspawn")
    machine.boot(KNOW + SERVE + upgrade)


def _printed(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
