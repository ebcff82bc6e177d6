"""One node as a process, with its default limits, and a tunnel of it in use; fake nodes, of which one is hostile."""

import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import pytest
import trustme
from portway.tunnel import Tunnel
from portway_lab.cluster.portway import NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.visitors.hostile_sibling import HostileSibling, hostile_sibling
from portway_testkit.visitors.origins import TcpOrigin
from portway_testkit.visitors.siege import LONGER, REGISTRY_NAME, Besieged, endless

# A quarter of the default: stalled handshakes are the only thing here that takes much memory, and tests have to make as
# many as are allowed.
MOST_GREETINGS = 256
_FLAGS = ("--max-greetings", str(MOST_GREETINGS), "--max-greetings-per-address", "64")


# Seconds for one attack of scripts/attack.
_LONG: Final = 1_800


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Attacks that last longer have more time than their own marks give."""
    if LONGER > 1:
        for item in items:
            item.add_marker(pytest.mark.timeout(_LONG), append=False)


@pytest.fixture(scope="session")
def besieged() -> Iterator[Besieged]:
    """One node for all attacks."""
    with a_node() as node:
        yield node


@pytest.fixture
def node_with() -> Callable[..., AbstractContextManager[Besieged]]:
    """Starts a node of its own with further flags."""
    return a_node


@pytest.fixture
def unasked() -> Iterator[Besieged]:
    """A node that has not been asked for any name: after many, further look-ups are batched."""
    with a_node() as node:
        yield node


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """The CA of fake nodes and registries."""
    return trustme.CA()


@pytest.fixture
def hostile(authority: trustme.CA) -> Iterator[FakeNode]:
    with FakeNode("hostile", authority) as node:
        yield node


@pytest.fixture
def honest(authority: trustme.CA) -> Iterator[FakeNode]:
    with FakeNode("honest", authority) as node:
        yield node


@pytest.fixture
async def sibling(besieged: Besieged) -> AsyncIterator[HostileSibling]:
    """A node of the same region, as far as the registry and the besieged node know."""
    async with hostile_sibling(besieged) as node:
        yield node


@contextmanager
def a_node(*flags: str) -> Iterator[Besieged]:
    """Client, node and registry are separate processes, so that none waits for another's interpreter lock."""
    with (
        tempfile.TemporaryDirectory(prefix="pw-") as folder,
        Processes(Path(folder)) as processes,
        TcpOrigin(endless) as origin,
    ):
        nodes = (NodePlan("fra-1", "fra", 50.1, 8.7, flags=(*_FLAGS, *flags)),)
        cluster = start_cluster(processes, nodes, RegistryPlan(flags=("--registry-name", REGISTRY_NAME)))
        node = cluster.nodes[0]
        command = [sys.executable, "-c", _HOLD, str(origin.port)]
        client = processes.start("client", command, ready_flag=True, environment=cluster.exports)
        tunnel = Tunnel(**processes.wait_ready(client))
        cluster.ask("tenant", "set-quota", "storm", "10000")
        many = cluster.ask("token", "create", "--tenant", "storm")["token"]
        told = processes.wait_ready(node.process)
        first, last = node.process.command[node.process.command.index("--raw-ports") + 1].split("-")
        host, _, port = node.listen.rpartition(":")
        yield Besieged(
            host,
            int(port),
            "fra-1.node.portway.internal",
            told["admin_listen"],
            node.process.pid,
            tunnel,
            range(int(first), int(last) + 1),
            cluster.exports | {"PORTWAY_TOKEN": many},
            cluster.ca,
            cluster.pki,
            processes.wait_ready(cluster.registry_process)["mesh_listen"],
            told.get("dns_listen", ""),
        )


# A tunnel with a raw port, until SIGTERM.
_HOLD = """
import dataclasses, json, pathlib, signal, sys
import portway
with portway.forward(int(sys.argv[1]), unencrypted=True) as tunnel:
    ready = pathlib.Path(sys.argv[sys.argv.index("--ready-file") + 1])
    ready.with_suffix(".part").write_text(json.dumps(dataclasses.asdict(tunnel)))
    ready.with_suffix(".part").rename(ready)
    signal.sigwait({signal.SIGTERM})
"""
