"""What registries said last, in a file: what a start without one finds, and what it does not believe."""

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from portway_proto.v1.mesh_pb2 import (
    Announced,
    ClusterSettings,
    DnsRecords,
    GrantKey,
    Order,
    Peers,
    PortOwner,
    PortOwners,
    Registered,
    RegistryFronts,
    RegistryMessage,
    Revocations,
)
from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, DnsRecord, NodeInfo
from portway_relay.registry_link.kept_messages import COUNTS_FOR, KeptMessages
from portway_testkit.links.carrier_link import until

NOW = 1_800_000_000.0


class Run:
    """One run of a node: what is kept of it in `path`."""

    def __init__(self, path: Path | None, now: float = NOW, pause: float = 0.0) -> None:
        self.now = now
        self.passed_on: list[object] = []
        self.kept = KeptMessages(self, path, lambda: self.now, pause=pause)

    def received(self, message: RegistryMessage) -> None:
        self.passed_on.append(message.WhichOneof("message"))

    def registry_away(self, away: bool) -> None:
        self.passed_on.append(away)

    def removed(self, reason: str) -> None:
        self.passed_on.append(reason)

    def hear(self, **message: Any) -> None:
        self.kept.received(RegistryMessage(**message))

    def register(self) -> None:
        """A registry's lists in their order, with a cluster of two nodes."""
        self.kept.registry_away(False)
        self.hear(settings=SETTINGS)
        self.hear(revocations=Revocations(token_ids=["t1"]))
        self.hear(peers=Peers(nodes=[NodeInfo(name="a")], more=True))
        self.hear(peers=Peers(nodes=[NodeInfo(name="b")], removed=["c"], part=1))
        self.hear(port_owners=PortOwners(owners=[PortOwner(first=1, last=2, node="a")]))
        self.hear(dns_records=DnsRecords(version=7, records=[DnsRecord(name="x.", type="A", data="192.0.2.1")]))
        self.hear(order=Order(state=NODE_STATE_CORDONED))

    def stored(self) -> list[str]:
        return [message.WhichOneof("message") or "" for message in self.kept.stored()]

    def revoked(self) -> list[str]:
        return [one for message in self.kept.stored() for one in message.revocations.token_ids]


SETTINGS = ClusterSettings(cluster_id="c", grant_keys=[GrantKey(kid="k", public_key=b"1" * 32)], cluster_ca=b"CA")
ALL = ["revocations", "settings", "peers", "peers", "port_owners", "dns_records", "order"]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    mask = os.umask(0o000)
    yield tmp_path / "registry-said"
    os.umask(mask)


def run_once(path: Path) -> Run:
    run = Run(path)
    run.register()
    run.kept.write()
    return run


def test_the_next_run_finds_what_was_said_last(path: Path) -> None:
    """All lists that hold until another one comes, revocations first; for its owner alone to read."""
    run = run_once(path)
    assert run.passed_on == [False, "settings", "revocations", *["peers"] * 2, "port_owners", "dns_records", "order"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = Run(path).kept.stored()
    assert [message.WhichOneof("message") for message in found] == ALL
    assert [node.name for message in found for node in message.peers.nodes] == ["a", "b"]
    assert found[1].settings.grant_keys == SETTINGS.grant_keys


def test_cas_are_not_in_it(path: Path) -> None:
    """They have a file of their own, which may be newer."""
    run_once(path)
    assert not any(message.settings.cluster_ca for message in Run(path).kept.stored())
    assert b"CA" not in path.read_bytes()


def test_messages_of_a_moment_are_not_kept(path: Path) -> None:
    run = run_once(path)
    for one in (
        {"registered": Registered(lease_id=1)},
        {"announced": Announced(batch=1)},
        {"registry_fronts": RegistryFronts(name="n", key=b"secret" * 6)},
    ):
        run.hear(**one)
    run.kept.write()
    assert Run(path).stored() == ALL
    assert b"secret" not in path.read_bytes()


def test_the_newest_list_counts_once_it_is_whole(path: Path) -> None:
    run = run_once(path)
    run.hear(peers=Peers(nodes=[NodeInfo(name="new")], more=True))
    run.kept.write()
    assert Run(path).stored().count("peers") == 2
    run.hear(peers=Peers(nodes=[NodeInfo(name="newer")]))
    run.kept.write()
    (peers,) = (message.peers for message in Run(path).kept.stored() if message.HasField("peers"))
    assert [node.name for node in peers.nodes] == ["newer"]


def test_revocations_are_added_and_those_of_before_end_with_the_next_registration(path: Path) -> None:
    """A registry says all that count once more, before the nodes."""
    run = run_once(path)
    run.hear(revocations=Revocations(token_ids=["t2"]))
    run.kept.write()
    second = Run(path)
    assert second.revoked() == ["t1", "t2"]
    second.kept.registry_away(False)
    second.hear(revocations=Revocations(token_ids=["t3"]))
    second.kept.write()
    assert set(Run(path).revoked()) == {"t1", "t2", "t3"}
    second.hear(peers=Peers())
    second.kept.write()
    assert Run(path).revoked() == ["t3"]


@pytest.mark.parametrize("age", [0.0, COUNTS_FOR - 1])
def test_it_counts_for_a_day(path: Path, age: float) -> None:
    run_once(path)
    assert Run(path, NOW + age).stored() == ALL
    assert Run(path, NOW + COUNTS_FOR + 1).stored() == []
    assert Run(path, NOW - 3_600).stored() == [], "this clock, or that of then, is wrong"


def test_the_day_begins_when_no_registry_is_there_any_more(path: Path) -> None:
    """However often it is started and stopped meanwhile: nobody renews a grant, and no revocation is heard."""
    run = run_once(path)
    run.now += 1_000
    run.kept.registry_away(True)
    run.now += 1_000
    run.kept.write()
    again = Run(path, run.now)
    assert again.stored() == ALL
    again.kept.write()
    assert Run(path, NOW + 1_000 + COUNTS_FOR).stored() == ALL
    assert Run(path, NOW + 1_001 + COUNTS_FOR).stored() == []


@pytest.mark.parametrize(
    "spoil", [lambda c: c[:-1], lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda c: b"", lambda c: c * 2]
)
def test_a_damaged_file_is_not_used(path: Path, spoil: Any, caplog: pytest.LogCaptureFixture) -> None:
    """As after a crash of the machine: it is not flushed to disk. The next one is written over it."""
    run = run_once(path)
    path.write_bytes(spoil(path.read_bytes()))
    assert Run(path).stored() == []
    assert "not used" in caplog.text
    run.kept.write()
    assert Run(path).stored() == ALL


@pytest.mark.parametrize("mode", [0o602, 0o620])
def test_a_file_that_others_can_write_is_not_used(path: Path, mode: int) -> None:
    """Who writes it says which keys sign grants."""
    run_once(path)
    path.chmod(mode)
    assert Run(path).stored() == []


def test_a_node_that_was_removed_keeps_nothing(path: Path) -> None:
    run = run_once(path)
    run.kept.removed("an operator removed it")
    run.kept.write()
    assert not path.exists()
    assert run.passed_on[-1] == "an operator removed it"


def test_a_node_that_never_registered_writes_nothing(path: Path) -> None:
    Run(path).kept.write()
    assert not path.exists()
    assert Run(None).stored() == []


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path / "none" / "file")
    run.register()
    run.kept.write()
    run.kept.write()
    assert caplog.text.count("a restart needs a registry") == 1


async def test_it_is_written_soon_after_each_change(path: Path) -> None:
    run = Run(path)
    writing = asyncio.ensure_future(run.kept.keep_writing())
    run.register()
    await until(path.exists)
    run.hear(order=Order())
    await until(lambda: not Run(path).kept.stored()[-1].order.state)
    writing.cancel()
