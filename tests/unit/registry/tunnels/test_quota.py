"""How many tunnels a token may have, and which are too many."""

from typing import Protocol

import pytest
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.labels import Chain
from portway_registry.state.views import Views
from portway_registry.tunnels.quota import Quota
from portway_testkit.clusters.registry import tunnel_info


class Cluster(Protocol):
    views: Views

    async def put_token(self, token_id: str, *, max_tunnels: int = ..., revoked_at_ms: int = ...) -> None: ...

    async def put_tunnel(self, tunnel: TunnelInfo) -> None: ...


@pytest.fixture
def quota(cluster: Cluster) -> Quota:
    return Quota(cluster.views.tokens, cluster.views.tunnels, default=3)


async def test_a_token_s_own_limit_counts_else_the_default(cluster: Cluster, quota: Quota) -> None:
    """0 and a token that is not known (yet) stand for the registry's default."""
    await cluster.put_token("own", max_tunnels=7)
    await cluster.put_token("none")
    assert [quota.limit(token) for token in ("own", "none", "unknown")] == [7, 3, 3]


async def test_what_is_open_leaves_less_room(cluster: Cluster, quota: Quota) -> None:
    """Tunnels of the token count, whichever node they are on; others' do not. Room never goes below none."""
    await cluster.put_token("own", max_tunnels=2)
    rooms = [quota.free("own")]
    for number in range(3):
        await cluster.put_tunnel(tunnel_info(Chain(), token_id="own", node=f"n{number}"))
        rooms.append(quota.free("own"))
    await cluster.put_tunnel(tunnel_info(Chain(), token_id="else"))
    assert rooms == [2, 1, 0, 0]
    assert quota.free("else") == 2


async def test_the_youngest_are_too_many(cluster: Cluster, quota: Quota) -> None:
    """What was bound last in the cluster is over the quota; a label that moved keeps its age."""
    chains = [Chain() for _ in range(5)]
    for chain in chains:
        await cluster.put_tunnel(tunnel_info(chain, token_id="own"))
    await cluster.put_tunnel(tunnel_info(chains[0], 2, token_id="own", node="lon-1"))
    assert {item.name for item in quota.excess("own")} == {chain.label for chain in chains[3:]}
    assert quota.excess("unknown") == []
