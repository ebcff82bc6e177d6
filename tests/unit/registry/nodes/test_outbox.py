"""What is to be told to a node, while it is not read."""

import asyncio

import pytest
from portway_proto.v1.mesh_pb2 import (
    ClusterSettings,
    DnsRecords,
    Eviction,
    Peers,
    PortOwners,
    Registered,
    RegistryFronts,
    RegistryMessage,
    ZoneCertificates,
)
from portway_proto.v1.types_pb2 import NodeInfo
from portway_proto.wire.limits import MAX_CLAIM
from portway_registry.nodes import outbox as outbox_module
from portway_registry.nodes.outbox import Outbox


def kinds(messages: list[RegistryMessage]) -> list[str | None]:
    return [message.WhichOneof("message") for message in messages]


async def test_the_order_makes_sense_to_a_node() -> None:
    """Whatever order things happened in, a node hears who it is, the rules, then the news, then that it was heard; and
    certificates before the nodes, by whose regions it sees which certificates it lacks."""
    outbox = Outbox()
    outbox.announced(1)
    outbox.evict([Eviction(label="a")])
    outbox.registry_fronts(RegistryFronts())
    outbox.zone_certificates((ZoneCertificates(), ZoneCertificates()))
    outbox.port_owners(PortOwners())
    outbox.dns_records((DnsRecords(), DnsRecords(part=1)))
    outbox.peers((Peers(),))
    outbox.revoke(["t"])
    outbox.settings(ClusterSettings())
    outbox.registered(Registered(lease_id=1))
    rules = ["registered", "settings", "revocations", "zone_certificates", "zone_certificates", "peers", "port_owners"]
    more = ["dns_records", "dns_records", "registry_fronts"]
    order = [*rules, *more, "evictions", "announced"]
    assert kinds(await outbox.take()) == order


async def test_what_is_told_whole_is_told_in_its_last_state() -> None:
    """A node that reads late gets settings and peers once; single news are all kept, revocations each once."""
    outbox = Outbox()
    for number in range(3):
        outbox.peers((Peers(nodes=[NodeInfo(name=str(number))]),))
        outbox.settings(ClusterSettings(cluster_id=str(number)))
        outbox.revoke([str(number), "same"])
        outbox.evict([Eviction(label=str(number))])
        outbox.announced(number)
    settings, revocations, peers, evictions, *announced = await outbox.take()
    assert settings.settings.cluster_id == "2"
    assert sorted(revocations.revocations.token_ids) == ["0", "1", "2", "same"]
    assert [node.name for node in peers.peers.nodes] == ["2"]
    assert [one.label for one in evictions.evictions.evictions] == ["0", "1", "2"]
    assert [one.announced.batch for one in announced] == [0, 1, 2]


async def test_taking_waits_for_something_to_tell() -> None:
    """An empty outbox is waited at, also when what was put in is nothing; what was taken is not told again."""
    outbox = Outbox()
    taking = asyncio.ensure_future(outbox.take())
    outbox.revoke([])
    outbox.evict([])
    await asyncio.sleep(0)
    assert not taking.done()
    outbox.announced(7)
    assert [message.announced.batch for message in await taking] == [7]
    again = asyncio.ensure_future(outbox.take())
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()
    await asyncio.wait([again])


async def test_a_node_that_does_not_read_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own batches wait, so it cannot make the registry hold more."""
    monkeypatch.setattr(outbox_module, "_MAX_ENTRIES", 3)
    outbox = Outbox()
    outbox.evict([Eviction(label="a"), Eviction(label="b")])
    await outbox.room()
    outbox.announced(1)
    waiting = asyncio.ensure_future(outbox.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    await outbox.take()
    await waiting


async def test_many_entries_are_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fits into a gRPC message, and together they say everything."""
    monkeypatch.setattr(outbox_module, "_MAX_ENTRIES", 3)
    monkeypatch.setattr(outbox_module, "_MAX_EVICTIONS", 2)
    outbox = Outbox()
    outbox.revoke([str(number) for number in range(7)])
    outbox.evict([Eviction(label=str(number)) for number in range(4)])
    messages = await outbox.take()
    assert [len(message.revocations.token_ids) for message in messages] == [3, 3, 1, 0, 0]
    assert [len(message.evictions.evictions) for message in messages] == [0, 0, 0, 2, 2]
    assert [one for message in messages for one in message.revocations.token_ids] == list("0123456")


async def test_evictions_with_the_longest_claims_fit_into_messages() -> None:
    """A node accepts messages of 4 MiB."""
    outbox = Outbox()
    outbox.evict([Eviction(label="a" * 16, epoch=2**62, claim=bytes(MAX_CLAIM)) for _ in range(4_000)])
    messages = await outbox.take()
    assert sum(len(message.evictions.evictions) for message in messages) == 4_000
    assert max(message.ByteSize() for message in messages) < 4 << 20
