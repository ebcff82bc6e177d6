"""An etcd of one member as a part of a cluster: for demos and measurements, never for production.

Here: its command line, waiting until it serves. Not here: finding the program (the test kit's etcd.py).
"""

import subprocess
from pathlib import Path

from portway_lab.cluster.processes import Process, Processes

PORT = 2379
_PEER_PORT = 2380
_SERVES_WITHIN = 30.0


def start_etcd(processes: Processes, program: Path, host: str, prefix: tuple[str, ...]) -> Process:
    """An etcd in a place of its own, where its ports are free; it serves. Its data takes 122 MiB of the folder."""
    client, peer = f"http://{host}:{PORT}", f"http://{host}:{_PEER_PORT}"
    command: list[str | Path] = [
        *prefix,
        program,
        "--name=etcd",
        f"--data-dir={processes.folder / 'etcd'}",
        *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
        *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=etcd={peer}"),
        # With these two one member elects itself in 0.1 s.
        *("--heartbeat-interval=10", "--election-timeout=100"),
    ]
    process = processes.start("etcd", command)
    wait_etcd(processes, process, host, prefix)
    return process


def wait_etcd(processes: Processes, process: Process, host: str, prefix: tuple[str, ...]) -> None:
    """Until it answers. Raises ProcessFailed."""
    url = f"http://{host}:{PORT}/health"
    command = [*prefix, "curl", "-sf", "--noproxy", "*", url]

    def serves() -> bool:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    processes.wait_until(serves, process, "does not serve", _SERVES_WITHIN)
