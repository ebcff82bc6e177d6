"""Round trips that clients report, and what other clients of the same network are told then."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from portway_proto.v1.discovery_pb2 import (
    STRATEGY_GEOIP,
    LocateRequest,
    LocateResponse,
    ReportRequest,
    RoundTrip,
    SurveyRequest,
    SurveyResponse,
)
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING
from portway_registry.placement.reports import MAX_IN_A_REPORT, REPORT_BURST
from portway_registry.placement.round_trips import QUORUM
from portway_registry.server import Registry
from portway_registry.services.discovery import SURVEY_BURST
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.node_stream import NodeStream, all_known
from portway_testkit.clusters.registry import SESSION_KEY, Pki, bearer, node_info

# The kit's GeoIP file has loopback in Frankfurt.
FRANKFURT = {"region": "fra", "latitude": 50.1, "longitude": 8.7}
LONDON = {"region": "lon", "latitude": 51.5, "longitude": -0.1}
SYDNEY = {"region": "syd", "latitude": -33.9, "longitude": 151.2}


class Client:
    """A client with a token of its own; all are at 127.0.0.1, and so of one network."""

    def __init__(self, public: grpc.aio.Channel, token: str) -> None:
        self._stub = DiscoveryStub(public)
        self._shown = bearer(token)

    async def report(self, *trips: RoundTrip) -> None:
        await self._stub.Report(ReportRequest(round_trips=trips), metadata=self._shown)

    async def locate(self, **request: Any) -> LocateResponse:
        return await self._stub.Locate(LocateRequest(session_key=SESSION_KEY, **request), metadata=self._shown)

    async def names(self, **request: Any) -> list[str]:
        return [candidate.node.name for candidate in (await self.locate(**request)).candidates]

    async def survey(self) -> SurveyResponse:
        return await self._stub.Survey(SurveyRequest(), metadata=self._shown)


@pytest.fixture
async def clients(public: grpc.aio.Channel, admin: AdminCaller) -> list[Client]:
    return [Client(public, (await admin.new_token()).token) for _ in range(QUORUM)]


@pytest.fixture
def node(registry: Registry, pki: Pki) -> Callable[..., NodeStream]:
    return lambda name, **more: NodeStream(registry.mesh_address, pki, node_info(name, **more))


def trip(node: str, ms: float, *, at_least: bool = False) -> RoundTrip:
    return RoundTrip(node=node, ms=ms, at_least=at_least)


async def test_what_several_clients_measured_goes_before_distance(
    node: Callable[..., NodeStream], clients: list[Client]
) -> None:
    """Once as many tokens as it takes have reported; `geoip` is distance alone all the same."""
    async with node("fra-1", **FRANKFURT) as frankfurt, node("lon-1", **LONDON) as london:
        await all_known(frankfurt, london)
        for client in clients:
            assert await client.names() == ["fra-1", "lon-1"]
            await client.report(trip("fra-1", 120), trip("lon-1", 14))
        first, second = (await clients[0].locate()).candidates
        assert (first.node.name, first.expected_rtt_ms, first.learned) == ("lon-1", 14, True)
        assert (second.node.name, second.expected_rtt_ms, second.learned) == ("fra-1", 120, True)
        assert second.distance_km == pytest.approx(0, abs=1)
        by_distance = (await clients[0].locate(strategy=STRATEGY_GEOIP)).candidates
        assert [one.node.name for one in by_distance] == ["fra-1", "lon-1"]
        assert not any(one.learned for one in by_distance)


async def test_a_race_that_was_lost_is_enough(node: Callable[..., NodeStream], clients: list[Client]) -> None:
    """The node that seemed near and was given up comes after the one that was faster."""
    async with node("fra-1", **FRANKFURT) as frankfurt, node("lon-1", **LONDON) as london:
        await all_known(frankfurt, london)
        for client in clients:
            await client.report(trip("fra-1", 60, at_least=True), trip("lon-1", 14))
        assert await clients[0].names() == ["lon-1", "fra-1"]


async def test_one_token_decides_nothing_however_much_it_reports(
    node: Callable[..., NodeStream], clients: list[Client]
) -> None:
    """Too many, too often, of nodes that are not there, faster than light: each is answered, nothing comes of any."""
    hostile = clients[0]
    async with node("fra-1", **FRANKFURT) as frankfurt, node("syd-1", **SYDNEY) as sydney:
        await all_known(frankfurt, sydney)
        for _ in range(int(REPORT_BURST) + 10):
            await hostile.report(trip("fra-1", 900), *(trip(f"mars-{n}", 1) for n in range(10 * MAX_IN_A_REPORT)))
        assert await clients[1].names() == ["fra-1", "syd-1"]
        for client in clients:
            await client.report(trip("syd-1", 1), trip("syd-1", float("nan")), trip("syd-1", 1e300))
        assert await clients[1].names() == ["fra-1", "syd-1"]


async def test_nothing_learned_brings_back_a_node_that_takes_no_clients(
    node: Callable[..., NodeStream], clients: list[Client]
) -> None:
    """Draining and full ones stay out, however near they were measured."""
    async with (
        node("fra-1", **FRANKFURT) as frankfurt,
        node("lon-1", **LONDON, sessions=5, max_sessions=5) as full,
        node("syd-1", **SYDNEY) as sydney,
    ):
        await all_known(frankfurt, full, sydney)
        for client in clients:
            await client.report(trip("fra-1", 1), trip("lon-1", 10), trip("syd-1", 250))
        await frankfurt.keep_alive(state=NODE_STATE_DRAINING)
        await sydney.until(lambda: sydney.peer_state("fra-1") == NODE_STATE_DRAINING)
        assert await clients[0].names() == ["syd-1"]


async def test_a_survey_has_every_node_and_says_how_the_registry_sees_the_client(
    node: Callable[..., NodeStream], clients: list[Client]
) -> None:
    """Candidates in the order of Locate, with their loads as it tells them, and behind them who takes no clients."""
    async with (
        node("fra-1", **FRANKFURT) as frankfurt,
        node("lon-1", **LONDON, state=NODE_STATE_DRAINING) as london,
        node("syd-1", **SYDNEY, sessions=6, max_sessions=10) as sydney,
    ):
        await all_known(frankfurt, london, sydney)
        survey = await clients[0].survey()
        assert [one.node.name for one in survey.candidates] == ["fra-1", "syd-1", "lon-1"]
        assert [one.load_ms for one in survey.candidates] == [0, 11, 0]
        located = await clients[0].locate()
        assert [(one.node.name, one.load_ms) for one in located.candidates] == [("fra-1", 0), ("syd-1", 11)]
        assert survey.candidates[2].node.state == NODE_STATE_DRAINING
        assert survey.nodes == 3
        assert (survey.client_address, survey.client_country) == ("127.0.0.1", "DE")
        assert (survey.client_latitude, survey.client_longitude) == (50.1, 8.7)
        assert survey.cluster_ca.startswith(b"-----BEGIN CERTIFICATE-----")


async def test_surveys_are_bounded(node: Callable[..., NodeStream], clients: list[Client]) -> None:
    """A token that asks too often is told so; another one is answered."""
    async with node("fra-1", **FRANKFURT) as frankfurt:
        await all_known(frankfurt)

        async def again_and_again() -> None:
            for _ in range(10 * int(SURVEY_BURST)):
                await clients[0].survey()

        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await again_and_again()
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await clients[1].survey()).nodes == 1
