"""Proofs for a certificate authority: published until every name server has them, taken back, and not left behind."""

import asyncio
import logging
from typing import Any

import pytest
from portway_proto.v1.types_pb2 import NodeInfo
from portway_registry.dns.board import DnsBoard
from portway_registry.dns.challenges import Challenges
from portway_registry.state import keys
from portway_testkit.clusters.registry import node_info
from portway_testkit.clusters.views import ViewedStore, shows

NAME = "_acme-challenge.fra.tunnels.example"
NOW_MS = 1_800_000_000_000


async def put(cluster: ViewedStore, name: str, **more: Any) -> NodeInfo:
    info = node_info(name, **more)
    await cluster.store.put(keys.node(name), info.SerializeToString())
    await cluster.settle()
    return info


def made(cluster: ViewedStore, within: float = 30.0) -> Challenges:
    return Challenges(cluster.store, cluster.views, lambda: NOW_MS, within=within)


def board(cluster: ViewedStore) -> DnsBoard:
    return DnsBoard(cluster.views, domain="tunnels.example", registry_name="")


async def shown(cluster: ViewedStore) -> list[tuple[str, str]]:
    await cluster.settle()
    return [(one.record.name, one.record.data) for one in board(cluster).listed() if one.record.type == "TXT"]


async def test_it_returns_once_every_node_that_answers_dns_has_it(cluster: ViewedStore) -> None:
    """A certificate authority asks any of them; a node without DNS is not waited for."""
    await put(cluster, "plain")
    await put(cluster, "fra-1", dns=True)
    await put(cluster, "iad-1", dns=True)
    publishing = asyncio.ensure_future(made(cluster).publish(f"{NAME.upper()}.", "proof"))
    await shows(cluster.views.dns, lambda: cluster.views.dns.items)
    assert await shown(cluster) == [(NAME, '"proof"')]
    version = board(cluster).messages()[0].version
    await put(cluster, "fra-1", dns=True, dns_version=version)
    await put(cluster, "iad-1", dns=True, dns_version=version - 1)
    assert not publishing.done()
    await put(cluster, "iad-1", dns=True, dns_version=version)
    await asyncio.wait_for(publishing, 10)


async def test_a_node_that_goes_is_waited_for_no_more(cluster: ViewedStore) -> None:
    await put(cluster, "fra-1", dns=True)
    publishing = asyncio.ensure_future(made(cluster).publish(NAME, "proof"))
    await shows(cluster.views.dns, lambda: cluster.views.dns.items)
    await cluster.store.delete(keys.node("fra-1"))
    await asyncio.wait_for(publishing, 10)


async def test_who_does_not_say_so_in_time_is_named(cluster: ViewedStore, caplog: pytest.LogCaptureFixture) -> None:
    await put(cluster, "fra-1", dns=True)
    await put(cluster, "iad-1", dns=True, dns_version=2**60)
    caplog.set_level(logging.WARNING)
    await made(cluster, within=0.05).publish(NAME, "proof")
    (record,) = caplog.records
    assert record.__dict__["nodes"] == "fra-1"
    assert await shown(cluster) == [(NAME, '"proof"')]


async def test_a_name_has_several_and_each_is_taken_back_by_itself(cluster: ViewedStore) -> None:
    """Of a name and of the wildcard below it, or of two replicas."""
    challenges = made(cluster)
    for value in ("one", "two", "one"):
        await challenges.publish(NAME, value)
    assert await shown(cluster) == [(NAME, '"one"'), (NAME, '"two"')]
    await challenges.withdraw(f"{NAME}.", "one")
    await challenges.withdraw(NAME, "one")
    await challenges.withdraw(NAME, "never was")
    assert await shown(cluster) == [(NAME, '"two"')]


async def test_each_change_has_a_higher_version(cluster: ViewedStore) -> None:
    """Also what is taken back: a node that says an earlier version has it still."""
    challenges, versions = made(cluster), []
    for change in (challenges.publish(NAME, "a"), challenges.publish(NAME, "b"), challenges.withdraw(NAME, "b")):
        await change
        await cluster.settle()
        versions.append(board(cluster).messages()[0].version)
    assert versions == sorted(set(versions))


async def test_the_first_node_of_a_cluster_is_waited_for(cluster: ViewedStore) -> None:
    """The registry begins before it; a certificate authority that is told to look would look in vain."""
    challenges = Challenges(cluster.store, cluster.views, lambda: NOW_MS, first_within=30.0)
    publishing = asyncio.ensure_future(challenges.publish(NAME, "proof"))
    await shows(cluster.views.dns, lambda: cluster.views.dns.items)
    await put(cluster, "plain")
    await cluster.settle()
    assert not publishing.done()
    await put(cluster, "fra-1", dns=True, dns_version=2**60)
    await asyncio.wait_for(publishing, 10)
