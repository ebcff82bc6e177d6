"""The contestants: ways from a visitor to one origin server, all of them running during the whole measurement.

Here: the processes of each. Not here: what is measured on them (measures.py).

    direct    visitor → nginx, plain
    portway   visitor → TLS → relay node → TLS → client → nginx
    haproxy   visitor → TLS → HAProxy → TLS → HAProxy → nginx; one thread each, TCP mode, Portway's own certificates
    ssh       visitor → plain → sshd → ssh -R → nginx
"""

import getpass
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from portway_testkit.processes.ports import free_port, wait_listening

from portway_lab.bench.endpoint import Endpoint
from portway_lab.cluster.portway import DOMAIN, LOOPBACK, Cluster
from portway_lab.cluster.processes import Processes

REGION = "fra"
NODE = "fra-1"
# Larger than any buffer on the path, small enough to stay in the page cache.
BIG_FILE = 256 << 20
_SMALL_PAGE = "a small page, as an API would answer it: " + "x" * 87
_SBIN = "/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Contestant:
    """`parts` are the processes whose CPU and memory are counted, by role; origin and load are not counted."""

    name: str
    endpoint: Endpoint
    parts: dict[str, list[int]] = field(default_factory=dict)

    @property
    def pids(self) -> list[int]:
        return [pid for pids in self.parts.values() for pid in pids]


def find_program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SBIN}")


def start_origin(processes: Processes, program: str) -> int:
    """nginx with one worker; returns its port."""
    folder = processes.folder / "nginx"
    folder.mkdir()
    with (folder / "big").open("wb") as big:
        big.truncate(BIG_FILE)
    port = free_port()
    user = f"user {getpass.getuser()};" if os.getuid() == 0 else ""
    temporary = "\n".join(
        f"    {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile {_descriptors()};
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {min(10_000, _descriptors())}; }}
http {{
    access_log off;
    sendfile on;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
{temporary}
    server {{
        listen {LOOPBACK}:{port} backlog=4096;
        location = / {{ return 200 "{_SMALL_PAGE}"; }}
        location = /big {{ root {folder}; }}
    }}
}}
""")
    processes.start("nginx", [program, "-c", folder / "nginx.conf", "-p", folder, "-e", "stderr"])
    wait_listening(port, processes.check_alive)
    return port


def start_portway(processes: Processes, cluster: Cluster, origin: int) -> Contestant:
    client = processes.start(
        "client",
        [sys.executable, "-m", "portway_lab.bench.clients", "hold", str(origin)],
        ready_flag=True,
        environment=cluster.exports,
    )
    ready = processes.wait_ready(client)
    endpoint = Endpoint(LOOPBACK, ready["port"], ready["host"], str(cluster.ca))
    parts = {
        "node": [cluster.nodes[0].process.pid],
        "client": [client.pid],
        "registry": [cluster.registry_process.pid],
    }
    return Contestant("portway", endpoint, parts)


def start_haproxy(processes: Processes, cluster: Cluster, origin: int, program: str) -> Contestant:
    """Two processes in a chain, the second in place of the client: both legs are encrypted and verified, as Portway's
    are.
    """
    folder = processes.folder / "haproxy"
    folder.mkdir(mode=0o700)
    inner_name = f"{NODE}.node.portway.internal"
    fronts = {"front": f"region-{REGION}", "back": f"node-{NODE}"}
    for name, certificate in fronts.items():
        pem = (cluster.pki / f"{certificate}.crt").read_bytes() + (cluster.pki / f"{certificate}.key").read_bytes()
        (folder / f"{name}.pem").write_bytes(pem)
    ports = {name: free_port() for name in fronts}
    verified = f"ssl verify required ca-file {cluster.ca} sni str({inner_name}) verifyhost {inner_name}"
    targets = {"front": f"{LOOPBACK}:{ports['back']} {verified}", "back": f"{LOOPBACK}:{origin}"}
    started = {}
    for name in ("back", "front"):
        (folder / f"{name}.cfg").write_text(f"""
global
    nbthread 1
    maxconn {min(10_000, _descriptors() // 2 - 100)}
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-server-options ssl-min-ver TLSv1.3
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen {name}
    bind {LOOPBACK}:{ports[name]} ssl crt {folder}/{name}.pem backlog 4096
    server next {targets[name]}
""")
        started[name] = processes.start(f"haproxy-{name}", [program, "-db", "-f", folder / f"{name}.cfg"])
        wait_listening(ports[name], processes.check_alive)
    endpoint = Endpoint(LOOPBACK, ports["front"], f"bench.{REGION}.{DOMAIN}", str(cluster.ca))
    return Contestant("haproxy", endpoint, {"node": [started["front"].pid], "client": [started["back"].pid]})


def start_ssh(processes: Processes, origin: int, sshd: str, ssh: str) -> Contestant:
    """An sshd with its own keys and configuration, and `ssh -R` to it."""
    folder = processes.folder / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True, stdin=subprocess.DEVNULL
        )
    listen, forwarded = free_port(), free_port()
    host_key = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[{LOOPBACK}]:{listen} {host_key}")
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    (folder / "sshd_config").write_text(f"""
ListenAddress {LOOPBACK}:{listen}
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
AllowTcpForwarding yes
""")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd drops its privileges
    server = processes.start("sshd", [sshd, "-D", "-e", "-f", folder / "sshd_config"])
    wait_listening(listen, processes.check_alive)
    options = {
        "UserKnownHostsFile": folder / "known_hosts",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "ExitOnForwardFailure": "yes",
    }
    client = processes.start(
        "ssh",
        [
            ssh,
            *("-F", "none", "-N", "-i", folder / "user", "-p", str(listen)),
            *(part for name, value in options.items() for part in ("-o", f"{name}={value}")),
            *("-R", f"{LOOPBACK}:{forwarded}:{LOOPBACK}:{origin}", f"{getpass.getuser()}@{LOOPBACK}"),
        ],
    )
    wait_listening(forwarded, processes.check_alive)
    return Contestant("ssh -R", Endpoint(LOOPBACK, forwarded), {"node": [server.pid], "client": [client.pid]})


def _descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
