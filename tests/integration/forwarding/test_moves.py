"""Tunnels that move between nodes: nobody is lost on a stale route, and nobody reaches another's tunnel."""

import contextlib
import hashlib
import random
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_EPOCH
from portway_proto.wire.frames import RefusalReason
from portway_proto.wire.statements import SigningKey
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.mesh import connected
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.visitors.mesh_visitors import answer_at, answered_by, connect
from portway_testkit.visitors.visiting import receive
from portway_testkit.waiting import eventually

NAMES = ("fra-1", "fra-2", "iad-1")

Bind = Callable[..., HandTunnel]


def answered(mesh: Cluster, at: str, host: str) -> str:
    """The name of the tunnel that answers; empty where none is known."""
    try:
        return answered_by(mesh, at, host)
    except ssl.SSLError:
        return ""


@pytest.mark.parametrize("size", [0, 1, 65_536])
def test_a_stale_route_costs_a_visitor_nothing(mesh: Cluster, bind: Bind, size: int) -> None:
    """The node that had the tunnel says "not here", and what was sent already arrives at the one that has it."""
    key, sent = SigningKey(), random.Random(size).randbytes(size)
    before = bind(mesh, "fra-1", "before", key)
    assert answered_by(mesh, "iad-1", before.host) == "before"
    bind(mesh, "fra-2", "after", key, 2, expected=size)
    answer = answer_at(mesh, "iad-1", before.host, sent).decode()
    assert answer == f"after {hashlib.sha256(sent).hexdigest()}\n"
    assert len(before.openings) == 1


@pytest.mark.parametrize("reason", [RefusalReason.NOT_HERE, RefusalReason.SHUTDOWN])
@pytest.mark.parametrize("at", NAMES)
def test_a_client_that_is_leaving_sends_nobody_away(mesh: Cluster, bind: Bind, reason: RefusalReason, at: str) -> None:
    """Its tunnel is bound elsewhere already: a visitor that it refuses is served there."""
    key = SigningKey()
    before = bind(mesh, "fra-1", "before", key)
    assert answered_by(mesh, at, before.host) == "before"
    before.refuses = reason
    bind(mesh, "iad-1", "after", key, 2)
    assert answered_by(mesh, at, before.host) == "after"


def test_a_higher_epoch_takes_the_label_everywhere(mesh: Cluster, bind: Bind) -> None:
    """The old holder is told; new visitors at every node are the new one's."""
    key = SigningKey()
    before = bind(mesh, "fra-1", "before", key)
    bind(mesh, "fra-2", "after", key, 2)
    assert before.evicted().code == FAILURE_CODE_EPOCH
    assert {answered_by(mesh, at, before.host) for at in NAMES} == {"after"}


def test_a_lower_epoch_is_refused_elsewhere(mesh: Cluster, bind: Bind) -> None:
    """A sibling knows which epoch the label has, and lets nobody come with an old one."""
    key = SigningKey()
    holder = bind(mesh, "fra-1", "holder", key, 2)
    assert answered_by(mesh, "fra-2", holder.host) == "holder"
    late = bind(mesh, "fra-2", "late", key, 1)
    assert late.refused is not None
    assert late.refused.code == FAILURE_CODE_EPOCH
    assert {answered_by(mesh, at, holder.host) for at in NAMES} == {"holder"}


def test_an_epoch_does_not_come_back_when_its_successor_leaves(mesh: Cluster, bind: Bind) -> None:
    """A lower one is refused once the label is free, at the node that had it and at a sibling that knew of it."""
    key = SigningKey()
    holder = bind(mesh, "fra-1", "holder", key, 3)
    assert answered_by(mesh, "fra-2", holder.host) == "holder"
    holder.leave()
    for at in ("fra-1", "fra-2"):
        old = bind(mesh, at, "old", key, 2)
        assert old.refused is not None
        assert old.refused.code == FAILURE_CODE_EPOCH


def test_tunnels_are_never_mixed_while_they_move(mesh: Cluster, bind: Bind) -> None:
    """Two labels are bound again and again at nodes chosen by lot; every visitor at every node gets its own tunnel."""
    lot = random.Random(5)
    keys = {"one": SigningKey(), "two": SigningKey()}
    tunnels = {name: bind(mesh, "fra-1", name, key) for name, key in keys.items()}
    hosts = {name: tunnel.host for name, tunnel in tunnels.items()}

    def visit(name: str, at: str) -> tuple[str, str]:
        try:
            return name, answered_by(mesh, at, hosts[name])
        except ConnectionResetError:
            return name, ""  # the tunnel's lane went in the middle of it

    with ThreadPoolExecutor(4) as visitors:
        for epoch in range(2, 10):
            running = [visitors.submit(visit, name, at) for name in keys for at in NAMES]
            for name, key in keys.items():
                before = tunnels[name]
                tunnels[name] = bind(mesh, lot.choice(NAMES), name, key, epoch)
                before.evicted()  # one that left before would have closed the tunnel, as far as its node knows
                before.leave()
            for name, answered in (each.result() for each in running):
                assert answered in (name, "", "HTTP/1.1")
    for name, host in hosts.items():
        assert {answered_by(mesh, at, host) for at in NAMES} == {name}


def test_a_home_that_stops_in_order_loses_its_names(mesh: Cluster, bind: Bind) -> None:
    """Its tunnels end with it; bound again elsewhere under the same name they are found."""
    key = SigningKey()
    before = bind(mesh, "fra-1", "before", key)
    assert {answered_by(mesh, at, before.host) for at in NAMES} == {"before"}
    mesh.nodes["fra-1"].stop()
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        connect(mesh.nodes["fra-2"], before.host, mesh.ca)
    bind(mesh, "iad-1", "after", key, 2)
    for at in ("fra-2", "iad-1"):
        eventually(lambda: answered(mesh, at, before.host) == "after")
    mesh.nodes["fra-1"].start()
    eventually(lambda: connected(mesh))
    assert {answered_by(mesh, at, before.host) for at in NAMES} == {"after"}


def test_a_home_that_dies_resets_its_visitors_and_is_left(mesh: Cluster, bind: Bind) -> None:
    """A visit in progress through another node is broken off; the next one finds where the tunnel is now."""
    key = SigningKey()
    before = bind(mesh, "fra-1", "before", key, expected=1_000_000)
    visitor = connect(mesh.nodes["iad-1"], before.host, mesh.ca)
    visitor.sendall(bytes(1000))
    eventually(lambda: before.openings)
    home = mesh.nodes["fra-1"].node

    async def die() -> None:
        await home._serving.public_port.close()
        await home._base.carrier.close()

    mesh.run(die)
    with visitor, contextlib.suppress(ConnectionResetError):
        assert receive(visitor) == b""
    bind(mesh, "fra-2", "after", key, 2)
    assert {answered_by(mesh, at, before.host) for at in ("fra-2", "iad-1")} == {"after"}
