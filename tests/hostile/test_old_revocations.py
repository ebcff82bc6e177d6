"""A node that was cut off from every registry for more than a day, and a token that was revoked meanwhile."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue

import portway
import pytest
from portway.engine import engine_thread as thread
from portway_registry import server
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.cluster import LOOPBACK, Cluster
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import serves
from portway_testkit.waiting import eventually

pytestmark = pytest.mark.timeout(120)

HOUR_MS = 3_600_000
# A revocation is told to every node that registers for 25 hours.
FORGOTTEN_MS = 26 * HOUR_MS


class Time:
    """The clock of registries, which a test sets ahead or back."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return self.real() + self.ahead_ms

    real = staticmethod(server._now_ms)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(server, "_now_ms", time)
    return time


@pytest.fixture
def cluster(tmp_path: Path, time: Time) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield stack.enter_context(Cluster(tmp_path, store=f"embedded:{tmp_path / 'registry.db'}"))
        thread.stop_engine()


@contextmanager
def registry_elsewhere(cluster: Cluster) -> Iterator[None]:
    """The registry runs where no node finds it; after that it does not run."""
    cluster.stop_registry()
    known = cluster.registry_config
    nowhere = Endpoint(LOOPBACK, 0)
    cluster.registry_config = dataclasses.replace(known, listen=nowhere, mesh_listen=nowhere)
    cluster.start_registry()
    yield
    cluster.stop_registry()
    cluster.registry_config = known


def test_a_node_that_comes_back_ends_what_was_revoked_meanwhile(
    cluster: Cluster, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long ago: it names the tokens of its sessions. The tunnels of other tokens stay."""
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    doomed = cluster.token(tenant="doomed")
    lost: SimpleQueue[portway.TunnelLostError] = SimpleQueue()
    with (  # noqa: PT012 - it is the end of the block that raises
        HttpOrigin() as one,
        HttpOrigin() as two,
        portway.forward(one.port) as kept,
        pytest.raises(portway.TunnelLostError, match="revoked"),
        portway.forward(two.port, token=doomed, tunnel_lost=lost.put) as tunnel,
    ):
        # Long ago, so that what the other client signs is of now.
        time.ahead_ms = -FORGOTTEN_MS
        with registry_elsewhere(cluster):
            cluster.admin.revoke_token(doomed)
            assert serves(tunnel, cluster.ca)
        time.ahead_ms = 0
        cluster.start_registry()
        assert isinstance(lost.get(timeout=30).reason, portway.AuthError)
        eventually(lambda: not serves(tunnel, cluster.ca))
        assert serves(kept, cluster.ca)
