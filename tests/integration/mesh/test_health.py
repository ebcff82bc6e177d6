"""What an operator is told of a node, over plain HTTP on its admin port."""

import dataclasses
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

import portway
import pytest
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.cluster import LOOPBACK, Cluster, NodePlan, RunningNode
from portway_testkit.fixtures import AsClient
from portway_testkit.processes.ports import free_port
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import serves
from portway_testkit.visitors.visiting import visit
from portway_testkit.waiting import PATIENCE, eventually


@pytest.fixture
def cluster(start_cluster: Callable[..., Cluster]) -> Cluster:
    """One node whose admin port is known before it has started."""
    admin = Endpoint(LOOPBACK, free_port())
    return start_cluster(NodePlan("fra-1", "fra", settings={"admin_listen": admin}))


def get(node: RunningNode, path: str) -> tuple[int, str]:
    """Status and text; status 0 where nobody listens."""
    try:
        with urllib.request.urlopen(f"http://{node.config.admin_listen}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_a_node_that_serves_is_healthy_and_ready(cluster: Cluster) -> None:
    """Both answer 200 and a word; what is not there is 404."""
    assert get(cluster.node, "/healthz") == (200, "ok\n")
    assert get(cluster.node, "/readyz") == (200, "ready\n")
    assert get(cluster.node, "/nothing")[0] == 404


def test_a_node_without_a_registry_is_healthy_and_not_ready(cluster: Cluster) -> None:
    """It waits for the first one, and an operator can see that; once it was ready an outage changes nothing."""
    node = cluster.node
    cluster.stop_registry()
    assert get(node, "/readyz")[0] == 200
    node.stop()
    starting = threading.Thread(target=node.start)
    starting.start()
    try:
        eventually(lambda: get(node, "/healthz")[0] == 200)
        assert get(node, "/readyz") == (503, "no registry was reached yet\n")
    finally:
        cluster.start_registry()
        starting.join(PATIENCE)
    assert get(node, "/readyz")[0] == 200


def test_a_node_that_stops_is_not_ready_and_healthy_to_its_end(
    start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin
) -> None:
    """While the last visits finish nobody is sent to it; who comes all the same is served."""
    cluster = start_cluster(NodePlan("fra-1", "fra", settings={"admin_listen": Endpoint(LOOPBACK, free_port())}))
    node = cluster.node
    node.config = dataclasses.replace(node.config, limits=dataclasses.replace(node.config.limits, stop_grace=PATIENCE))
    node.restart()
    as_client(cluster.environment())
    with portway.forward(origin.port) as tunnel, visit(tunnel, cluster.ca) as visitor:
        visitor.sendall(b"GET /events/1000/0.05 HTTP/1.1\r\nHost: here\r\n\r\n")
        assert visitor.recv(1000)
        stopping = threading.Thread(target=node.stop)
        stopping.start()
        eventually(lambda: get(node, "/readyz") == (503, "stopping\n"))
        assert get(node, "/healthz")[0] == 200
        assert visitor.recv(1000), "the visit goes on"
        assert serves(tunnel, cluster.ca)
        visitor.close()
        stopping.join(PATIENCE)
        assert get(node, "/healthz") == (0, "")
        node.start()
        eventually(lambda: serves(tunnel, cluster.ca))


def test_metrics_count_what_happens(cluster: Cluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """Sessions, tunnels, visits and bytes, in Prometheus' form; no label and no token is in it."""
    as_client(cluster.environment())
    before = cluster.node.metrics()
    with portway.forward(origin.port, unencrypted=True) as tunnel:
        assert serves(tunnel, cluster.ca)
        eventually(lambda: cluster.node.metrics()["visits"] == 0)
        status, page = get(cluster.node, "/metrics")
        assert status == 200
        assert "# TYPE portway_relay_sessions gauge" in page
        assert "# TYPE portway_relay_received_bytes_total counter" in page
        now = cluster.node.metrics()
        assert (now["sessions"], now["tunnels"], now["raw_ports_held"]) == (1, 1, 1)
        assert now["registry_connected"] == 1
        assert now["visits_started_total"] == before["visits_started_total"] + 1
        assert now['visits_ended_total{outcome="done"}'] == 1
        assert now["received_bytes_total"] > before["received_bytes_total"]
        assert now["sent_bytes_total"] > now["received_bytes_total"]
        assert tunnel.host.partition(".")[0] not in page
        assert cluster.token().split("_")[1] not in page
    eventually(lambda: cluster.node.metrics()["tunnels"] == 0)
    assert cluster.node.metrics()["raw_ports_resting"] == 1
