"""What clients are told: which nodes, in which order, and a grant that nodes can check by themselves."""

from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from grpc import StatusCode
from portway_proto.v1.discovery_pb2 import LocateRequest, LocateResponse, RenewRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, NODE_STATE_DRAINING, NODE_STATE_READY
from portway_registry.server import Registry
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.node_stream import NodeStream, all_known
from portway_testkit.clusters.registry import PATIENCE, SESSION_KEY, Pki, bearer, channel, node_info
from portway_testkit.signers import now_ms

# The kit's GeoIP file has loopback in Frankfurt.
PLACES = {
    "syd-1": ("syd", -33.9, 151.2),
    "lon-1": ("lon", 51.5, -0.1),
    "fra-1": ("fra", 50.1, 8.7),
    "nyc-1": ("nyc", 40.7, -74.0),
}


class Client:
    """A client's calls, with its token."""

    def __init__(self, public: grpc.aio.Channel, token: str) -> None:
        self._stub = DiscoveryStub(public)
        self._shown = bearer(token)

    async def locate(self, **request: Any) -> LocateResponse:
        return await self._stub.Locate(LocateRequest(**{"session_key": SESSION_KEY} | request), metadata=self._shown)

    async def names(self, **request: Any) -> list[str]:
        return [candidate.node.name for candidate in (await self.locate(**request)).candidates]

    async def refusal(self, **request: Any) -> tuple[StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await self.locate(**request)
        return raised.value.code(), raised.value.details() or ""

    async def renew(self) -> str:
        return (await self._stub.Renew(RenewRequest(session_key=SESSION_KEY), metadata=self._shown)).grant.token


@pytest.fixture
async def client(public: grpc.aio.Channel, admin: AdminCaller) -> Client:
    return Client(public, (await admin.new_token(max_tunnels=7)).token)


def at(registry: Registry, pki: Pki, name: str, **more: Any) -> NodeStream:
    region, latitude, longitude = PLACES[name]
    info = node_info(name, region, latitude=latitude, longitude=longitude, **more)
    return NodeStream(registry.mesh_address, pki, info)


async def test_the_nearest_node_comes_first(registry: Registry, pki: Pki, client: Client) -> None:
    """Candidates are in the order of their distance from where GeoIP puts the client, and say how far they are."""
    async with (
        at(registry, pki, "syd-1") as sydney,
        at(registry, pki, "lon-1") as london,
        at(registry, pki, "nyc-1") as york,
        at(registry, pki, "fra-1") as frankfurt,
    ):
        await all_known(sydney, london, york, frankfurt)
        answer = await client.locate()
        assert [one.node.name for one in answer.candidates] == ["fra-1", "lon-1", "nyc-1", "syd-1"]
        assert answer.client_country == "DE"
        near, *_, far = answer.candidates
        assert near.distance_km == pytest.approx(0, abs=1)
        assert far.distance_km == pytest.approx(16_480, abs=100)
        assert near.expected_rtt_ms < 1 < far.expected_rtt_ms
        assert await client.names(limit=2) == ["fra-1", "lon-1"]


async def test_a_region_is_kept_to(registry: Registry, pki: Pki, client: Client) -> None:
    """With a region only its nodes are candidates; one without nodes is NOT_FOUND and the known ones are named."""
    async with at(registry, pki, "lon-1") as london, at(registry, pki, "fra-1") as frankfurt:
        await all_known(london, frankfurt)
        assert await client.names(region="lon") == ["lon-1"]
        code, says = await client.refusal(region="mars")
        assert code is StatusCode.NOT_FOUND
        assert "fra, lon" in says


async def test_without_nodes_the_client_is_told_so(client: Client) -> None:
    """A cluster without any node is UNAVAILABLE: one may come."""
    code, says = await client.refusal()
    assert code is StatusCode.UNAVAILABLE
    assert "portway-relay serve" in says


@pytest.mark.parametrize("state", [NODE_STATE_CORDONED, NODE_STATE_DRAINING])
async def test_a_node_that_takes_no_clients_is_left_out(
    registry: Registry, pki: Pki, client: Client, state: Any
) -> None:
    """A node that is cordoned or drains is no candidate from the next KeepAlive on, and is one again afterwards."""
    async with at(registry, pki, "lon-1") as london, at(registry, pki, "fra-1") as frankfurt:
        await all_known(london, frankfurt)
        await frankfurt.keep_alive(state=state)
        await frankfurt.until(lambda: frankfurt.peer_state("fra-1") == state)
        assert await client.names() == ["lon-1"]
        code, says = await client.refusal(region="fra")
        assert code is StatusCode.UNAVAILABLE
        assert "in region 'fra'" in says
        await frankfurt.keep_alive(state=NODE_STATE_READY)
        await frankfurt.until(lambda: frankfurt.peer_state("fra-1") == NODE_STATE_READY)
        assert await client.names() == ["fra-1", "lon-1"]


async def test_a_full_node_is_left_out(registry: Registry, pki: Pki, client: Client) -> None:
    """A node with as many sessions as it takes is no candidate, however near."""
    async with (
        at(registry, pki, "lon-1") as london,
        at(registry, pki, "fra-1", sessions=10, max_sessions=10) as full,
    ):
        await all_known(london, full)
        assert await client.names() == ["lon-1"]


async def test_a_node_whose_stream_lives_outlives_its_record(registry: Registry, pki: Pki, client: Client) -> None:
    """A node is a candidate until both its lease and its stream are gone."""
    async with at(registry, pki, "lon-1") as london:
        async with at(registry, pki, "fra-1") as frankfurt:
            await all_known(london, frankfurt)
        # The stream is gone, the lease is not.
        assert await client.names() == ["fra-1", "lon-1"]


async def test_a_grant_says_whose_it_is_and_is_checked_with_published_keys(
    registry: Registry, pki: Pki, client: Client
) -> None:
    """Grants of Locate and Renew verify, by their kid, with what nodes were told; they name tenant, token and quota."""
    async with at(registry, pki, "fra-1") as node:
        await all_known(node)
        settings = await node.until(lambda: node.settings)
        answer = await client.locate()
        assert answer.cluster_ca == pki.ca.read_bytes()
        keys = {key.kid: Ed25519PublicKey.from_public_bytes(key.public_key) for key in settings.grant_keys}
        for grant in (answer.grant.token, await client.renew()):
            header = jwt.get_unverified_header(grant)
            assert (header["alg"], header["typ"]) == ("EdDSA", "portway-grant")
            claims = jwt.decode(
                grant,
                keys[header["kid"]],
                algorithms=["EdDSA"],
                audience="portway-node",
                issuer=settings.cluster_id,
                options={"require": ["exp", "iat", "sub"]},
            )
            assert (claims["sub"], claims["max_tunnels"], len(claims["tid"])) == ("demo", 7, 8)
            assert claims["exp"] - claims["iat"] == 3600
            assert claims["key"] == "A" * 43
        assert answer.grant.expires_at_ms - answer.grant.renew_at_ms == 1_800_000


async def test_a_full_quota_is_told(
    registry: Registry, pki: Pki, client: Client, admin: AdminCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To who wants to open a tunnel, with the number; one that comes back with its tunnels is located as ever."""
    # Nobody is refused while the store is away, as one that answers late is taken to be.
    monkeypatch.setattr("portway_registry.tunnels.quota._ANSWER_TIME", PATIENCE)
    await admin.set_quota("demo", 1)
    holder = await admin.client()
    async with at(registry, pki, "fra-1") as node:
        await all_known(node)
        await client.locate(new_tunnels=1)
        await node.announce(holder.tunnel("fra-1"), of=[holder])
        await admin.tunnels()  # the replica's view shows the tunnel then
        code, told = await client.refusal(new_tunnels=1)
        assert code is StatusCode.RESOURCE_EXHAUSTED
        assert "tenant demo may have 1 tunnels" in told
        await client.locate()


async def test_a_token_just_made_is_good_at_once(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """CreateToken answers when the token works: a client that starts right after it is let in."""
    async with at(registry, pki, "fra-1") as node, channel(registry.address, pki.ca) as public:
        await all_known(node)
        for _ in range(5):
            client = Client(public, (await admin.new_token()).token)
            assert await client.names() == ["fra-1"]


async def test_a_client_is_told_what_it_signs_for_and_by_what_time(
    registry: Registry, pki: Pki, client: Client
) -> None:
    """The cluster's id, and the registry's clock; Renew tells the clock again."""
    async with at(registry, pki, "fra-1") as node:
        await all_known(node)
        settings = await node.until(lambda: node.settings)
        answer = await client.locate()
        assert answer.cluster_id == settings.cluster_id
        assert now_ms() - 60_000 < answer.registry_time_ms <= now_ms()


@pytest.mark.parametrize("session_key", [b"", bytes(31), bytes(33)])
async def test_a_grant_is_for_a_session_key(registry: Registry, pki: Pki, client: Client, session_key: bytes) -> None:
    """A client of an older release, which names none, is told to upgrade; so is one that names no key."""
    async with at(registry, pki, "fra-1"):
        code, says = await client.refusal(session_key=session_key)
        assert code is StatusCode.INVALID_ARGUMENT
        assert "upgrade" in says
