"""A node is killed outright (SIGKILL) and started again on its ports."""

from typing import Any

import portway
from portway_testkit.fixtures import AsClient
from portway_testkit.own_time import OwnTime
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import epoch_of, serves
from portway_testkit.visitors.visiting import receive, visit_raw
from portway_testkit.waiting import eventually

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


def test_the_same_urls_work_again_by_themselves(
    process_cluster: Any, as_client: AsClient, origin: HttpOrigin, own_time: OwnTime
) -> None:
    """The raw port too; the registry shows the tunnel once, with the epoch of the new binding."""
    cluster = process_cluster
    as_client(cluster.environment)
    with portway.forward(origin.port, unencrypted=True) as tunnel:
        eventually(lambda: serves(tunnel, cluster.ca))
        epoch = epoch_of(cluster.admin, tunnel)
        cluster.node.kill()
        assert not serves(tunnel, cluster.ca)
        cluster.node.start()
        ready = own_time()
        eventually(lambda: serves(tunnel, cluster.ca))
        assert own_time() - ready < 10
        with visit_raw(tunnel) as visitor:
            visitor.sendall(REQUEST)
            assert receive(visitor).endswith(b"origin\n")
        eventually(lambda: epoch_of(cluster.admin, tunnel) == epoch + 1)
    eventually(lambda: not cluster.admin.tunnels())
