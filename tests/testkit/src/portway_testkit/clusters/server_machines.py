"""Machines that `portway-server` sets up and runs, each in a network of its own, with certificates of a CA that the
test has made."""

import sys
from pathlib import Path
from typing import Final

import trustme

from portway_testkit.processes.children import children_of
from portway_testkit.processes.machines import Machine
from portway_testkit.processes.running_program import RunningProgram

DOMAIN: Final = "tun.example.com"


def program(name: str) -> Path:
    """A program of this environment."""
    return Path(sys.executable).with_name(name)


def programs_of(up: int) -> dict[str, int]:
    """The programs that a running `portway-server up` has started: name → pid."""
    found = {}
    for child in children_of(up):
        for word in Path(f"/proc/{child}/cmdline").read_text().split("\0"):
            if Path(word).name in ("portway-registry", "portway-relay"):
                found[Path(word).name] = child
    return found


def environment_of(pid: int) -> dict[str, str]:
    """That which a process was started with."""
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


class ServerMachine:
    """One machine of a cluster. `folder` is the test's; `ca` the CA of all certificates, whose file is `ca.pem`."""

    def __init__(self, machine: Machine, folder: Path, ca: trustme.CA) -> None:
        self.machine = machine
        self.folder = folder
        self.folder.mkdir(exist_ok=True)
        self._ca = ca
        self.ca_file = folder / "ca.pem"
        ca.cert_pem.write_to_path(str(self.ca_file))

    @property
    def settings(self) -> Path:
        """Of `up`."""
        return self.folder / "etc" / "server.toml"

    @property
    def state(self) -> Path:
        return self.folder / "var"

    def certificate(self, *names: str) -> list[str]:
        """The options that give a new certificate for these names."""
        leaf = self._ca.issue_cert(*names)
        name = names[0].strip("*.")
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(key))
        return ["--tls-cert", str(certificate), "--tls-key", str(key)]

    def folders(self) -> list[str]:
        """The options of what is written where, without users."""
        return ["--config-dir", str(self.folder / "etc"), "--state-dir", str(self.state), "--same-user"]

    def by_hand(self, region: str) -> list[str]:
        """The options of certificates from elsewhere, and of names that others serve."""
        return [
            *("--region", region, "--no-dns"),
            *self.certificate(DOMAIN),
            *self.certificate(f"*.{region}.{DOMAIN}", f"{region}.{DOMAIN}"),
            *self.folders(),
        ]

    def up(self, environment: dict[str, str] | None = None) -> RunningProgram:
        """`portway-server up`, for a `with` block. Its log is in `log`."""
        command = (program("portway-server"), "up", "--config", self.settings)
        return self.machine.program(*command, log=self.log, environment=environment)

    @property
    def log(self) -> Path:
        return self.folder / "log"
