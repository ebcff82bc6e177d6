"""What clients call: where to go, and what to show there. Answered from memory alone."""

import time
from itertools import chain, zip_longest
from typing import Any, Final

from portway_geo.locator import Locator
from portway_proto.v1.discovery_pb2 import (
    Grant,
    LocateRequest,
    LocateResponse,
    RenewRequest,
    RenewResponse,
    ReportRequest,
    ReportResponse,
    Strategy,
    SurveyRequest,
    SurveyResponse,
)
from portway_proto.v1.discovery_pb2_grpc import DiscoveryServicer
from portway_proto.v1.types_pb2 import NodeInfo

from portway_registry.access.grants import Grants
from portway_registry.errors import Exhausted, NoCandidate, NotFound
from portway_registry.placement.reports import SURVEY_BURST, SURVEYS_PER_SECOND, Clock, Reports, TokenRate
from portway_registry.placement.roster import Roster
from portway_registry.placement.round_trips import NOTHING
from portway_registry.placement.shortlist import Ranked
from portway_registry.services.callers import current_caller, peer_address
from portway_registry.state.records import TokenRecord

# Three are raced (DESIGN §8); the others are for a client that loses its node while no registry answers.
CANDIDATES: Final = 8
_MOST_CANDIDATES: Final = 32
# Dialled one and all by who asks for them, and 40 KB: few clusters have more regions.
_MOST_SURVEYED: Final = 200


class Discovery(DiscoveryServicer):
    """The Discovery service; callers are clients, known by their tokens."""

    def __init__(
        self,
        roster: Roster,
        grants: Grants,
        locator: Locator,
        reports: Reports,
        *,
        cluster_ca: bytes,
        clock: Clock = time.monotonic,
    ) -> None:
        self._roster = roster
        self._grants = grants
        self._locator = locator
        self._reports = reports
        self._cluster_ca = cluster_ca
        self._surveys = TokenRate(SURVEYS_PER_SECOND, SURVEY_BURST, clock)

    async def Locate(self, request: LocateRequest, context: Any) -> LocateResponse:  # noqa: N802
        address = peer_address(context)
        position = None if address is None else self._locator.locate(str(address))
        learned = NOTHING
        if address is not None and request.strategy != Strategy.STRATEGY_GEOIP:
            learned = self._reports.learned(address)
        limit = min(request.limit or CANDIDATES, _MOST_CANDIDATES)
        found = self._roster.candidates(position, region=request.region, limit=limit, learned=learned)
        if not found:
            raise self._nobody(request.region)
        country = "" if position is None else position.country
        answer = LocateResponse(cluster_ca=self._cluster_ca, grant=self._grant(), client_country=country)
        for node, ranked in found:
            _add(answer, node, ranked)
        return answer

    async def Renew(self, request: RenewRequest, context: Any) -> RenewResponse:  # noqa: N802
        return RenewResponse(grant=self._grant())

    async def Report(self, request: ReportRequest, context: Any) -> ReportResponse:  # noqa: N802
        address = peer_address(context)
        if address is not None:
            position = self._locator.locate(str(address))
            self._reports.report(address, _token().id, position, request.round_trips)
        return ReportResponse()

    async def Survey(self, request: SurveyRequest, context: Any) -> SurveyResponse:  # noqa: N802
        if not self._surveys.take(_token().id):
            raise Exhausted("this token has asked for a survey of all regions too often: try again in a few seconds")
        address = peer_address(context)
        position = None if address is None else self._locator.locate(str(address))
        found = self._roster.all(position, NOTHING if address is None else self._reports.learned(address))
        answer = SurveyResponse(
            nodes=len(found),
            cluster_ca=self._cluster_ca,
            client_address="" if address is None else str(address),
            client_country="" if position is None else position.country,
            client_latitude=0.0 if position is None else position.latitude,
            client_longitude=0.0 if position is None else position.longitude,
        )
        for node, ranked in _some_of_each_region(found):
            _add(answer, node, ranked, load_ms=ranked.node.penalty_ms)
        return answer

    def _grant(self) -> Grant:
        return self._grants.sign(_token())

    def _nobody(self, region: str) -> NotFound | NoCandidate:
        """Why there is no candidate: a region that is not there will not come by waiting, a free node may."""
        regions = self._roster.regions()
        known = ", ".join(sorted(regions)) or "none yet"
        if region and region not in regions:
            return NotFound(f"no node is in region {region!r}; regions with nodes: {known}")
        if not regions:
            return NoCandidate("no node has registered with this cluster yet: start one with `portway-relay serve`")
        where = f"in region {region!r}" if region else f"in any region ({known})"
        return NoCandidate(
            f"no node {where} takes new clients now: all are full, cordoned, draining or not reached at "
            "their addresses; try again"
        )


def _token() -> TokenRecord:
    token = current_caller.get().token
    assert token is not None, "the table lets only tokens in here"
    return token


def _add(answer: LocateResponse | SurveyResponse, node: NodeInfo, ranked: Ranked, load_ms: int = 0) -> None:
    """A candidate is made in its place: each message that is given to another one is copied, and copies are what
    making an answer costs."""
    candidate = answer.candidates.add(
        expected_rtt_ms=ranked.expected_rtt_ms,
        distance_km=ranked.distance_km,
        learned=ranked.learned,
        load_ms=load_ms,
    )
    candidate.node.CopyFrom(node)


def _some_of_each_region(found: list[tuple[NodeInfo, Ranked]]) -> list[tuple[NodeInfo, Ranked]]:
    """As many as may be, in their order: the first of each region, the second of each, and so on."""
    if len(found) <= _MOST_SURVEYED:
        return found
    regions: dict[str, list[str]] = {}
    for node, _ in found:
        regions.setdefault(node.region, []).append(node.name)
    in_turn = [name for name in chain.from_iterable(zip_longest(*regions.values())) if name is not None]
    kept = set(in_turn[:_MOST_SURVEYED])
    return [one for one in found if one[0].name in kept]
