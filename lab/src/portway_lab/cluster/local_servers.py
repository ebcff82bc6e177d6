"""Local servers that no one here wrote, for tunnels to lead to: an OpenSSH server, a PostgreSQL server.

Each lets one user in, listens on loopback alone, and ends with the processes that it was started among.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from portway_testkit.processes.ports import LOOPBACK, free_port, wait_listening
from portway_testkit.processes.running_program import needed

from portway_lab.cluster.processes import Processes

# The SSH server is known by this name, whatever address it is reached at.
ALIAS: Final = "behind-a-tunnel"
# PostgreSQL refuses to run as root; its package makes this user.
_ACCOUNT: Final = "postgres"
# It needs no password.
ROLE: Final = "tester"
_INITDB_WITHIN: Final = 45.0
_STARTS_WITHIN: Final = 45.0


@dataclass(frozen=True, slots=True)
class SshServer:
    """An sshd with a host key of its own that lets one user key in."""

    port: int
    folder: Path

    def settings(self) -> tuple[str, ...]:
        """Of a client: only this server and this key, and no question ever asked."""
        return (
            f"HostKeyAlias={ALIAS}",
            f"UserKnownHostsFile={self.folder / 'known_hosts'}",
            f"IdentityFile={self.folder / 'user'}",
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
        )

    def options(self, *more: str) -> list[str]:
        """For ssh and scp, with nothing of the user's own configuration."""
        return ["-F", "none", *(part for option in (*self.settings(), *more) for part in ("-o", option))]


def start_sshd(processes: Processes) -> SshServer:
    """With its keys in the folder of the processes. Returns once it listens."""
    folder = processes.folder
    for key in ("host", "user"):
        keygen = [needed("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(keygen, check=True, stdin=subprocess.DEVNULL)
    port = free_port()
    (folder / "known_hosts").write_text(f"{ALIAS} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(f"""
ListenAddress {LOOPBACK}:{port}
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/user.pub
Subsystem sftp internal-sftp
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
""")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd drops its privileges into it
    processes.start("sshd", [needed("sshd"), "-D", "-e", "-f", folder / "sshd_config"])
    wait_listening(port, processes.check_alive)
    return SshServer(port, folder)


def start_postgres(processes: Processes, data: Path) -> int:
    """A server with its data in an empty folder, and one role; its port. Returns once it takes clients."""
    as_account = []
    if os.getuid() == 0:
        groups = ("--regid", _ACCOUNT, "--clear-groups")
        # Changing the user undoes that the server ends with us.
        as_account = [needed("setpriv"), "--reuid", _ACCOUNT, *groups, "--pdeathsig", "INT"]
        subprocess.run(["chown", _ACCOUNT, data], check=True)
    folder = data / "db"
    initdb = [needed("initdb"), "-D", str(folder), "-U", ROLE, "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run([*as_account, *initdb], check=True, capture_output=True, cwd="/", timeout=_INITDB_WITHIN)
    port = free_port()
    settings = {
        "listen_addresses": LOOPBACK,
        "unix_socket_directories": "",
        "fsync": "off",
        "shared_buffers": "16MB",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    server = processes.start("postgres", [*as_account, needed("postgres"), "-D", folder, "-p", str(port), *options])
    ask = [needed("pg_isready"), "--quiet", "--host", LOOPBACK, "--port", str(port)]

    def takes_clients() -> bool:
        return subprocess.run(ask, check=False).returncode == 0

    # It listens before: clients are told then that it is starting.
    processes.wait_until(takes_clients, server, "takes no clients", _STARTS_WITHIN)
    return port
