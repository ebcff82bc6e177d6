"""A black hole: sockets stay open while bytes are dropped, so that only silence tells."""

import portway
import pytest
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.links.client_link import ClientLink
from portway_testkit.own_time import OwnTime
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import is_consistent, serves
from portway_testkit.waiting import eventually

# Two silences of 5 s, looked for once a second, on a machine that does other things too.
NOTICED_WITHIN = 14.0


@pytest.mark.slow
def test_silence_is_noticed_within_ten_seconds_and_mended(
    cluster: Cluster, as_client: AsClient, origin: HttpOrigin, own_time: OwnTime
) -> None:
    """The client gives the connection up, and the same URL works as soon as another one carries bytes."""
    with ClientLink(cluster) as link:
        as_client(cluster.environment())
        with portway.forward(origin.port) as tunnel:
            assert serves(tunnel, cluster.ca)
            link.swallow_answers()
            began = own_time()
            eventually(lambda: cluster.node.metrics()["sessions_away"] == 1)
            assert own_time() - began < NOTICED_WITHIN
            link.mend()
            eventually(lambda: serves(tunnel, cluster.ca))
            eventually(lambda: is_consistent(cluster, tunnel))
