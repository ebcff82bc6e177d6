"""etcd forgets, by compaction, what a registry that was cut off from it has not seen."""

import dataclasses
import json
import urllib.request
from collections.abc import Callable, Iterator

import portway
import pytest
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.fixtures import AsClient
from portway_testkit.links.link import Link
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import TunnelWatch, is_consistent, serves
from portway_testkit.waiting import eventually


class StoreLink:
    """The registry's way to etcd, which the test can break."""

    def __init__(self, cluster: Cluster, etcd: EtcdServer) -> None:
        self._cluster = cluster
        self._link = Link(etcd.port)

    def open(self) -> None:
        cluster = self._cluster
        cluster.run(self._link.__aenter__)
        cluster.stop_registry()
        store = f"etcd:http://127.0.0.1:{self._link.port}"
        cluster.registry_config = dataclasses.replace(cluster.registry_config, store=store)
        cluster.start_registry()

    def close(self) -> None:
        self._cluster.stop_registry()
        self._cluster.run(self._link.__aexit__)

    def cut(self) -> None:
        async def cut() -> None:
            self._link.cut(refuse=True)

        self._cluster.run(cut)

    def mend(self) -> None:
        async def mend() -> None:
            self._link.mend()

        self._cluster.run(mend)


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster], etcd: EtcdServer) -> Cluster:
    return make_cluster(store=f"etcd:{etcd.url}")


@pytest.fixture
def store_link(cluster: Cluster, etcd: EtcdServer) -> Iterator[StoreLink]:
    link = StoreLink(cluster, etcd)
    link.open()
    yield link
    link.close()


def write_something_else(etcd: EtcdServer) -> None:
    """Another user of the same etcd moves its revision on."""
    body = json.dumps({"key": "c29tZWJvZHk=", "value": "dGhpbmc="}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{etcd.url}/v3/kv/put", data=body), timeout=10).close()


def test_nothing_is_lost_and_nothing_is_shown_twice(
    cluster: Cluster, store_link: StoreLink, as_client: AsClient, origin: HttpOrigin, etcd: EtcdServer
) -> None:
    """The watch cannot be resumed, so everything is listed again; who watches the registry sees only what changed."""
    as_client(cluster.environment())
    with TunnelWatch(cluster.admin) as watch, portway.forward(origin.port) as tunnel, HttpOrigin() as other:
        eventually(lambda: watch.shows(tunnel))
        store_link.cut()
        for _ in range(3):
            write_something_else(etcd)
        etcd.compact(etcd.revision())
        with portway.forward(other.port) as second:
            assert serves(second, cluster.ca)
            store_link.mend()
            eventually(lambda: watch.shows(tunnel, second))
            eventually(lambda: is_consistent(cluster, tunnel, second))
        eventually(lambda: watch.shows(tunnel))
        assert serves(tunnel, cluster.ca)
