"""Visits leave no cycles of objects, in client or node: what they held is free when they end, however rarely the
collector runs."""

import gc
from collections.abc import Iterator

import portway
import pytest
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.onlookers import answered, answered_at_last, answered_raw, named_at
from portway_testkit.waiting import PATIENCE, eventually

VISITS = 20
# Of the byte path. Lanes that end leave some: a lane is there for hours.
PATH = ("portway_carrier.", "portway_relay.visits", "portway_relay.ingress", "portway.")


@pytest.fixture
def garbage() -> Iterator[list[object]]:
    """What only the collector would have freed since the test began."""
    gc.collect()
    gc.disable()
    yield gc.garbage
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def visits_running(cluster: Cluster) -> int:
    async def running() -> int:
        return sum(one.node._routing.visits.running for one in cluster.nodes.values())

    return cluster.run(running)


def test_visits_leave_no_cycles(mesh: Cluster, as_client: AsClient, garbage: list[object]) -> None:
    """At home, from another node and another region, to a raw port, to a name that is unknown, and to a server that
    does not listen."""
    as_client(mesh.environment())
    with named_at(mesh, "fra-1", "own", unencrypted=True) as tunnel, portway.forward(1) as unserved:
        for at in ("fra-1", "fra-2", "iad-1"):
            eventually(lambda at=at: answered(mesh, at, tunnel.host) == "own")  # type: ignore[misc]
        eventually(lambda: visits_running(mesh) == 0)
        gc.collect()
        for _ in range(VISITS):
            for at in ("fra-1", "fra-2", "iad-1"):
                assert answered_at_last(mesh, at, tunnel.host) == "own"
                assert answered(mesh, at, "a" * 16 + ".fra.localhost") == ""
            assert answered_raw(mesh.nodes["fra-1"].raw_host, tunnel.unencrypted_port, PATIENCE) == "own"
        assert answered(mesh, "fra-1", unserved.host) == ""
        assert answered(mesh, "iad-1", unserved.host) == ""
        eventually(lambda: visits_running(mesh) == 0)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
    found = [f"{type(one).__module__}.{type(one).__qualname__}" for one in garbage]
    assert [name for name in found if name.startswith(PATH)] == []
