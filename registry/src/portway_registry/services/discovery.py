"""The Discovery service, which clients call: nodes to attach to, and a grant to show there.

Answered from memory, except where a quota is full (tunnels/quota.py).
"""

from collections.abc import Callable
from typing import Any, Final

from portway_geo.locator import Locator
from portway_proto.v1.discovery_pb2 import (
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
from portway_proto.wire.limits import KEY_SIZE
from portway_runtime.clocks import Monotonic, monotonic
from portway_runtime.rates import KeyedRate

from portway_registry.access.grants import Grants
from portway_registry.errors import Exhausted, InvalidRequest, NoCandidate, NotFound
from portway_registry.pki.cluster_authority import ClusterAuthority
from portway_registry.placement.reports import RATED_TOKENS, Reports
from portway_registry.placement.roster import Roster, some_of_each_region
from portway_registry.placement.round_trips import NOTHING
from portway_registry.placement.shortlist import Candidate
from portway_registry.services.callers import current_address, current_caller
from portway_registry.state.records import TokenRecord
from portway_registry.tunnels.quota import Quota

# A client races three; the others are for one that loses its node while no registry answers.
CANDIDATES: Final = 8
_MAX_CANDIDATES: Final = 32
# The nodes of a survey, all of which its caller dials; 40 KB. Few clusters have more regions.
_MAX_SURVEYED: Final = 200
# Surveys of one token. One costs the registry as much as thirty Locates at 1,000 nodes, and people ask for it.
SURVEYS_PER_SECOND: Final = 0.2
SURVEY_BURST: Final = 10.0


class Discovery(DiscoveryServicer):
    """The Discovery service; callers are clients, known by their tokens."""

    def __init__(
        self,
        roster: Roster,
        grants: Grants,
        quota: Quota,
        locator: Locator,
        reports: Reports,
        *,
        cluster_id: str,
        authority: ClusterAuthority,
        now_ms: Callable[[], int],
        clock: Monotonic = monotonic,
    ) -> None:
        """`now_ms`: the time that clients sign by, in milliseconds since the Unix epoch."""
        self._roster = roster
        self._grants = grants
        self._quota = quota
        self._locator = locator
        self._reports = reports
        self._cluster_id = cluster_id
        self._authority = authority
        self._now_ms = now_ms
        self._surveys: KeyedRate[str] = KeyedRate(SURVEYS_PER_SECOND, SURVEY_BURST, clock, RATED_TOKENS)

    async def Locate(self, request: LocateRequest, context: Any) -> LocateResponse:  # noqa: N802
        session_key = _session_key(request)
        if request.new_tunnels:
            await self._quota.demand_room(_token(), request.new_tunnels)
        address = current_address.get()
        position = self._locator.locate(str(address))
        learned = NOTHING if request.strategy == Strategy.STRATEGY_GEOIP else self._reports.learned(address)
        limit = min(request.limit or CANDIDATES, _MAX_CANDIDATES)
        found = self._roster.candidates(position, region=request.region, limit=limit, learned=learned)
        if not found:
            raise self._no_candidate(request.region)
        country = "" if position is None else position.country
        answer = LocateResponse(
            cluster_ca=self._authority.certificate,
            grant=self._grants.sign(_token(), session_key, self._authority.ids),
            client_country=country,
            cluster_id=self._cluster_id,
            registry_time_ms=self._now_ms(),
        )
        for node, candidate in found:
            _add(answer, node, candidate)
        return answer

    async def Renew(self, request: RenewRequest, context: Any) -> RenewResponse:  # noqa: N802
        session_key = _session_key(request)
        answer = RenewResponse(registry_time_ms=self._now_ms())
        told: tuple[str, ...] = ()
        if request.learns_cluster_ca:
            answer.cluster_ca, told = self._authority.certificate, self._authority.ids
        answer.grant.CopyFrom(self._grants.sign(_token(), session_key, told))
        return answer

    async def Report(self, request: ReportRequest, context: Any) -> ReportResponse:  # noqa: N802
        address = current_address.get()
        position = self._locator.locate(str(address))
        self._reports.report(address, _token().id, position, request.round_trips)
        return ReportResponse()

    async def Survey(self, request: SurveyRequest, context: Any) -> SurveyResponse:  # noqa: N802
        if not self._surveys.take(_token().id):
            raise Exhausted("this token has asked for a survey of all regions too often: try again in a few seconds")
        address = current_address.get()
        position = self._locator.locate(str(address))
        found = self._roster.all(position, self._reports.learned(address))
        answer = SurveyResponse(
            nodes=len(found),
            cluster_ca=self._authority.certificate,
            client_address=str(address),
            client_country="" if position is None else position.country,
            client_latitude=0.0 if position is None else position.latitude,
            client_longitude=0.0 if position is None else position.longitude,
        )
        for node, candidate in some_of_each_region(found, _MAX_SURVEYED):
            _add(answer, node, candidate)
        return answer

    def _no_candidate(self, region: str) -> NotFound | NoCandidate:
        """Why there is none: NotFound for a region that does not exist, else NoCandidate, which is worth a retry."""
        regions = self._roster.regions()
        known = ", ".join(sorted(regions)) or "none yet"
        if region and region not in regions:
            return NotFound(f"no node is in region {region!r}; regions with nodes: {known}")
        if not regions:
            return NoCandidate("no node has registered with this cluster yet: start one with `portway-relay serve`")
        where = f"in region {region!r}" if region else f"in any region ({known})"
        return NoCandidate(
            f"no node {where} takes new clients now: all are full, cordoned, draining, not reached at "
            "their addresses or with a wrong clock; try again"
        )


def _session_key(request: LocateRequest | RenewRequest) -> bytes:
    """The public key that the grant is for. Raises InvalidRequest."""
    if len(request.session_key) != KEY_SIZE:
        raise InvalidRequest(
            f"session_key has {len(request.session_key)} bytes, not {KEY_SIZE}: the client is of a release before this "
            "registry's, upgrade it"
        )
    return request.session_key


def _token() -> TokenRecord:
    token = current_caller.get().token
    assert token is not None, "METHOD_ROLES admits only tokens here"
    return token


def _add(answer: LocateResponse | SurveyResponse, node: NodeInfo, candidate: Candidate) -> None:
    """Add a candidate, made in its place in the answer.

    A message that is given to another one is copied, and copies are what making an answer costs.
    """
    added = answer.candidates.add(
        expected_rtt_ms=candidate.expected_rtt_ms,
        distance_km=candidate.distance_km,
        learned=candidate.learned,
        load_ms=candidate.node.penalty_ms,
    )
    added.node.CopyFrom(node)
