"""A cluster of Portway's programs: certificates, an etcd if wanted, registries, relay nodes, an API token.

Here: the command lines and the order in which they run. Not here: what the cluster is used for.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portway_testkit.processes.ports import raw_port_blocks

from portway_lab.cluster.processes import Process, Processes, ProcessFailed, clean_environment

LOOPBACK = "127.0.0.1"
# curl and browsers resolve every name below it to loopback.
DOMAIN = "localhost"
_PROGRAMS = Path(sys.executable).parent
_RAW_PORTS_PER_REGION = 500
# Seconds for a call to a registry that is ready.
_ADMIN_TIMEOUT = 30.0
ETCD_PORT = 2379
_ETCD_PEER_PORT = 2380
_ETCD_SERVES_WITHIN = 30.0


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A node to start. Port 0 is any free port.

    `prefix` goes before its command line (a network namespace), `flags` after it; `program` runs in place of
    portway-relay, with its arguments. Nodes of one region listen on the same raw ports, so each node on a machine needs
    a `host` of its own, such as 127.0.0.2. One that `joins` has a state folder, and its certificate by an invitation.
    """

    name: str
    region: str
    latitude: float
    longitude: float
    host: str = LOOPBACK
    port: int = 0
    prefix: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    program: tuple[str, ...] = (str(_PROGRAMS / "portway-relay"),)
    joins: bool = False


@dataclass(frozen=True, slots=True)
class RegistryPlan:
    """A registry to start; without `store` it has an embedded store in a file. `flags` go after its command line;
    `program` runs in place of portway-registry, with its arguments."""

    host: str = LOOPBACK
    port: int = 0
    prefix: tuple[str, ...] = ()
    store: str = ""
    flags: tuple[str, ...] = ()
    program: tuple[str, ...] = (str(_PROGRAMS / "portway-registry"),)


@dataclass(frozen=True, slots=True)
class RunningNode:
    plan: NodePlan
    listen: str  # host:port
    process: Process


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster. `ca` verifies the registries and every public name."""

    registries: tuple[str, ...]  # host:port of each for clients
    registry_processes: tuple[Process, ...]
    nodes: tuple[RunningNode, ...]
    token: str
    ca: Path
    pki: Path
    admin_token_file: Path

    @property
    def registry(self) -> str:
        """The first one."""
        return self.registries[0]

    @property
    def registry_process(self) -> Process:
        return self.registry_processes[0]

    @property
    def exports(self) -> dict[str, str]:
        """The environment variables that a client needs."""
        return {
            "PORTWAY_REGISTRY": ",".join(self.registries),
            "PORTWAY_TOKEN": self.token,
            "PORTWAY_CA": str(self.ca),
        }

    def ask(self, *words: str, prefix: tuple[str, ...] = (), registry: str = "") -> Any:
        """The answer to `portway-admin --json WORDS` of the first registry or of `registry`. Raises ProcessFailed."""
        connection = ["--registry", registry or self.registry, "--ca", str(self.ca)]
        return json.loads(_admin([*connection, "--token-file", self.admin_token_file, "--json", *words], prefix))


def start_cluster(
    processes: Processes,
    nodes: tuple[NodePlan, ...],
    registry: RegistryPlan | None = None,
    replicas: tuple[RegistryPlan, ...] = (),
    *,
    domain: str = DOMAIN,
) -> Cluster:
    """Start a cluster and return when every node is ready. Raises ProcessFailed with the part and the reason.

    `replicas` are further registries, which share the store of the first: it must be an etcd then. `domain` is what
    public names are below.
    """
    registry = registry or RegistryPlan()
    pki = processes.folder / "pki"
    _make_certificates(pki, nodes, (registry, *replicas), domain)
    admin_token_file = processes.folder / "admin-token"
    registries = []
    for number, replica in enumerate((registry, *replicas), 1):
        name = "registry" if number == 1 else f"registry-{number}"
        store = registry.store or f"embedded:{processes.folder / 'registry.db'}"
        registries.append(_start_registry(processes, name, replica, pki, store, admin_token_file))
        # In sequence: the first makes the keys and the admin token.
        processes.wait_ready(registries[-1])
    ready = [processes.wait_ready(process) for process in registries]
    mesh = tuple(each["mesh_listen"] for each in ready)
    regions = tuple(dict.fromkeys(plan.region for plan in nodes))
    raw_ports = dict(zip(regions, raw_port_blocks(len(regions), _RAW_PORTS_PER_REGION), strict=True))
    ca = pki / "ca.crt"
    public = tuple(each["listen"] for each in ready)
    started: list[tuple[NodePlan, Process]] = []
    for plan in nodes:
        first = all(other.region != plan.region for other, _ in started)
        ports = raw_ports[plan.region]
        identity = _given_identity(plan, pki)
        if plan.joins:
            token = _invite(plan, registry, public[0], ca, admin_token_file)
            identity = (*("--join", token), *("--registry-ca", ca), *("--state-dir", processes.folder / plan.name))
        started.append((plan, _start_node(processes, plan, pki, identity, mesh, ports, regions, domain, first=first)))
    running = tuple(RunningNode(plan, processes.wait_ready(process)["listen"], process) for plan, process in started)
    token = _create_token(registry, public[0], ca, admin_token_file)
    return Cluster(public, tuple(registries), running, token, ca, pki, admin_token_file)


def start_etcd(processes: Processes, program: Path, host: str, prefix: tuple[str, ...]) -> Process:
    """Start an etcd of one member and return once it serves. Raises ProcessFailed.

    It uses etcd's own ports, so it needs a network namespace of its own (`prefix`). Its data takes 122 MiB of the
    folder. For demos and measurements only.
    """
    client, peer = f"http://{host}:{ETCD_PORT}", f"http://{host}:{_ETCD_PEER_PORT}"
    command: list[str | Path] = [
        *prefix,
        program,
        "--name=etcd",
        f"--data-dir={processes.folder / 'etcd'}",
        *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
        *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=etcd={peer}"),
        # With these a single member elects itself in 0.1 s.
        *("--heartbeat-interval=10", "--election-timeout=100"),
    ]
    process = processes.start("etcd", command)
    _wait_etcd(processes, process, host, prefix)
    return process


def _wait_etcd(processes: Processes, process: Process, host: str, prefix: tuple[str, ...]) -> None:
    url = f"http://{host}:{ETCD_PORT}/health"
    command = [*prefix, "curl", "-sf", "--noproxy", "*", url]

    def serves() -> bool:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    processes.wait_until(serves, process, "does not serve", _ETCD_SERVES_WITHIN)


def _start_registry(
    processes: Processes, name: str, plan: RegistryPlan, pki: Path, store: str, admin_token_file: Path
) -> Process:
    return processes.start(
        name,
        [
            *plan.prefix,
            *plan.program,
            "serve",
            *("--listen", _address(processes, plan, plan.port)),
            *("--mesh-listen", _address(processes, plan)),
            *("--tls-cert", pki / "registry.crt", "--tls-key", pki / "registry.key"),
            *("--cluster-ca", pki / "ca.crt"),
            *("--store", store),
            *("--admin-token-file", admin_token_file),
            *plan.flags,
        ],
        ready_flag=True,
    )


def _start_node(
    processes: Processes,
    plan: NodePlan,
    pki: Path,
    identity: tuple[str | Path, ...],
    mesh: tuple[str, ...],
    raw_ports: int,
    regions: tuple[str, ...],
    domain: str,
    *,
    first: bool,
) -> Process:
    """A node has the certificates of all regions, for it serves names of all of them.

    The process of the `first` node of a region is named for the region, any other for the node.
    """
    names: list[str | Path] = []
    for region in regions:
        names += ["--tls-cert", pki / f"region-{region}.crt", "--tls-key", pki / f"region-{region}.key"]
    return processes.start(
        f"relay-{plan.region if first else plan.name}",
        [
            *plan.prefix,
            *plan.program,
            "serve",
            *("--name", plan.name, "--region", plan.region, "--domain", domain),
            *("--listen", _address(processes, plan, plan.port)),
            *("--raw-listen", plan.host, "--raw-host", plan.host),
            *("--raw-ports", f"{raw_ports}-{raw_ports + _RAW_PORTS_PER_REGION - 1}"),
            *(word for address in mesh for word in ("--registry", address)),
            *identity,
            *names,
            *("--admin-listen", _address(processes, plan)),
            # With "=": a negative number as a word of its own would be taken for a flag.
            *(f"--latitude={plan.latitude}", f"--longitude={plan.longitude}"),
            *plan.flags,
        ],
        ready_flag=True,
    )


def _address(processes: Processes, plan: RegistryPlan | NodePlan, port: int = 0) -> str:
    """Where a part listens, host:port. Port 0 is one that it finds free again when it is started again; in a network
    namespace of its own the part chooses one."""
    if not port and not plan.prefix:
        port = processes.kept_port(plan.host)
    return f"{plan.host}:{port}"


def _given_identity(plan: NodePlan, pki: Path) -> tuple[str | Path, ...]:
    """The flags of a node with a certificate by hand."""
    files = "--cert", pki / f"node-{plan.name}.crt", "--key", pki / f"node-{plan.name}.key"
    return "--cluster-ca", pki / "ca.crt", *files


def _make_certificates(
    pki: Path, nodes: tuple[NodePlan, ...], registries: tuple[RegistryPlan, ...], domain: str
) -> None:
    command: list[str | Path] = ["pki", "init", "--dir", pki, "--domain", domain]
    for region in dict.fromkeys(plan.region for plan in nodes):
        command += ["--region", region]
    for plan in nodes:
        command += ["--node", plan.name]
    for host in {*(registry.host for registry in registries), LOOPBACK, "localhost"}:
        command += ["--registry-host", host]
    _admin(command)


def _create_token(registry: RegistryPlan, address: str, ca: Path, admin_token_file: Path) -> str:
    return _made(["token", "create", "--tenant", "demo"], registry, address, ca, admin_token_file)


def _invite(plan: NodePlan, registry: RegistryPlan, address: str, ca: Path, admin_token_file: Path) -> str:
    words = ["node", "invite", "--region", plan.region, "--name", plan.name]
    return _made(words, registry, address, ca, admin_token_file)


def _made(words: list[str], registry: RegistryPlan, address: str, ca: Path, admin_token_file: Path) -> str:
    """The token that a command of an operator makes."""
    connection: list[str | Path] = ["--registry", address, "--ca", ca, "--token-file", admin_token_file, "--json"]
    token: str = json.loads(_admin([*connection, *words], registry.prefix))["token"]
    return token


def _admin(arguments: list[str | Path], prefix: tuple[str, ...] = ()) -> str:
    # The admin command is always that of this release, also where a prefix runs an older release of the registry.
    command = [*prefix, "env", "-u", "PYTHONPATH", str(_PROGRAMS / "portway-admin"), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_ADMIN_TIMEOUT, check=False, env=clean_environment()
    )
    if done.returncode != 0:
        raise ProcessFailed(f"{' '.join(command)} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout
