"""Names that are guessed from many addresses, while visitors come to tunnels of another region for the first time."""

import json
import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import portway
import pytest
from portway_lab.cluster.portway import Cluster, NodePlan, start_cluster
from portway_lab.cluster.processes import Processes
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.attacker import Attack, Attacker
from portway_testkit.visitors.hellos import message, records, server_name
from portway_testkit.visitors.origins import TcpOrigin
from portway_testkit.visitors.siege import metrics_at
from portway_testkit.visitors.visiting import connect_tls, tls_context
from portway_testkit.waiting import PATIENCE, eventually

# The nodes, their registry and a process that attacks start first.
pytestmark = [pytest.mark.shares_sockets, pytest.mark.timeout(120)]

VISITS = 17
ENOUGH = 16
ADDRESSES = 24
RATE = 1_200  # as many as so many addresses may have looked up, and more than a node looks up
# What is looked up at all has its time, however busy the machine is.
PATIENT = ("--lookup-time", str(PATIENCE))
NOT_ASKED = 'lookups_total{answered_by="nobody",outcome="not_asked"}'
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes, each in a region of its own."""
    with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
        ingress = NodePlan("iad-1", "iad", 39.0, -77.5, flags=PATIENT)
        yield start_cluster(processes, (NodePlan("fra-1", "fra", 50.1, 8.7), ingress))


@pytest.mark.parametrize("networks", [1, ADDRESSES])
def test_guesses_keep_nobody_from_tunnels_of_another_region(
    cluster: Cluster, as_client: AsClient, networks: int
) -> None:
    """The node has never heard of the tunnel, and looks its name up as if nobody guessed."""
    as_client(cluster.exports)
    ingress = cluster.nodes[1]
    host, _, port = ingress.listen.rpartition(":")
    assert ingress.process.ready_file is not None
    metrics = json.loads(ingress.process.ready_file.read_text())["admin_listen"]
    letters = random.Random(networks)
    names = ["".join(letters.choices(_LETTERS, k=16)) + ".fra.localhost" for _ in range(3 * RATE)]
    guesses = [records(message([server_name(name.encode())])).hex() for name in names]
    attack = Attack(host, [int(port)], RATE, guesses, addresses=ADDRESSES, networks=networks)
    context = tls_context(cluster.ca)
    served = 0
    with ExitStack() as stack:
        origins = [stack.enter_context(TcpOrigin(lambda sock: sock.sendall(b"here"))) for _ in range(VISITS)]
        tunnels = [stack.enter_context(portway.forward(origin.port, region="fra")) for origin in origins]
        attacker = stack.enter_context(Attacker(attack))
        attacker.go()
        eventually(lambda: metrics_at(metrics).get(NOT_ASKED, 0) > RATE / 4)
        for tunnel in tunnels:
            try:
                with connect_tls(context, (host, int(port)), tunnel.host) as visitor:
                    served += visitor.recv(4) == b"here"
            except OSError as error:
                print(error)
        attacker.rest()
    print(f"{served} of {VISITS} served; {metrics_at(metrics)[NOT_ASKED]:.0f} guesses were not looked up")
    assert served >= ENOUGH
