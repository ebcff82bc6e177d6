"""The process that has a program's engine is killed (SIGKILL), as the system does for want of memory."""

import os
import signal
from collections.abc import Iterator

import portway
import pytest
from portway.engine_process.engine_process import stop_engine_process
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.processes.children import has_ended, only_child
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import epoch_of, serves
from portway_testkit.waiting import eventually


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    stop_engine_process()


def test_its_urls_come_back_within_the_quota(cluster: Cluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """URL and raw port, though no further tunnel may be open; the next one's claim is the later one."""
    as_client(cluster.environment(cluster.token(max_tunnels=1)))
    with portway.forward(origin.port, unencrypted=True, process=True) as tunnel:
        assert serves(tunnel, cluster.ca)
        for _ in range(3):
            before, child = epoch_of(cluster.admin, tunnel), only_child()
            os.kill(child, signal.SIGKILL)
            eventually(lambda before=before: epoch_of(cluster.admin, tunnel) > before)  # type: ignore[misc]
            eventually(lambda: serves(tunnel, cluster.ca))
            assert has_ended(child)
            assert [one.unencrypted_port for one in cluster.admin.tunnels()] == [tunnel.unencrypted_port]
            assert cluster.node.metrics()["tunnels"] == 1
    eventually(lambda: not cluster.admin.tunnels())
    assert not serves(tunnel, cluster.ca)
