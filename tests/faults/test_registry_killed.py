"""The registry is killed outright (SIGKILL), is away, and is started again on what it had."""

from typing import Any

import portway
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import epoch_of, label_of, serves
from portway_testkit.waiting import eventually


def test_tunnels_go_on_and_new_ones_open(process_cluster: Any, as_client: AsClient, origin: HttpOrigin) -> None:
    """Nobody who is attached needs it; when it is back it shows all that was opened meanwhile."""
    cluster = process_cluster
    as_client(cluster.environment)
    with portway.forward(origin.port) as tunnel, HttpOrigin() as other:
        cluster.registry.kill()
        assert serves(tunnel, cluster.ca)
        with portway.forward(other.port) as second:
            assert serves(second, cluster.ca)
            cluster.registry.start()
            labels = {label_of(tunnel), label_of(second)}
            eventually(lambda: {shown.label for shown in cluster.admin.tunnels()} == labels)
            assert serves(tunnel, cluster.ca)
            # Nodes have a copy of their own in the registry's memory.
            eventually(lambda: [node.name for node in cluster.admin.nodes()] == ["fra-1"])
        eventually(lambda: [shown.label for shown in cluster.admin.tunnels()] == [label_of(tunnel)])


def test_a_node_killed_with_it_comes_back_with_it(
    process_cluster: Any, as_client: AsClient, origin: HttpOrigin
) -> None:
    """Everything but the client is gone for a moment: tokens and keys are on disk, and the URL works again."""
    cluster = process_cluster
    as_client(cluster.environment)
    with portway.forward(origin.port) as tunnel:
        epoch = epoch_of(cluster.admin, tunnel)
        cluster.node.kill()
        cluster.registry.kill()
        cluster.registry.start()
        cluster.node.start()
        eventually(lambda: serves(tunnel, cluster.ca))
        eventually(lambda: epoch_of(cluster.admin, tunnel) == epoch + 1)
