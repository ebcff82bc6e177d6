"""What clients call: where to go, and what to show there. Answered from memory alone."""

from typing import Any, Final

from portway_proto.v1.discovery_pb2 import (
    Candidate,
    Grant,
    LocateRequest,
    LocateResponse,
    RenewRequest,
    RenewResponse,
)
from portway_proto.v1.discovery_pb2_grpc import DiscoveryServicer

from portway_registry.errors import NoCandidate, NotFound
from portway_registry.geoip.locator import Locator
from portway_registry.grants import Grants
from portway_registry.roster import Roster
from portway_registry.services.callers import current_caller, peer_address

# Three are raced (DESIGN §8); the others are for a client that loses its node while no registry answers.
_CANDIDATES: Final = 8
_MOST_CANDIDATES: Final = 32


class Discovery(DiscoveryServicer):
    """The Discovery service; callers are clients, known by their tokens."""

    def __init__(self, roster: Roster, grants: Grants, locator: Locator, *, cluster_ca: bytes) -> None:
        self._roster = roster
        self._grants = grants
        self._locator = locator
        self._cluster_ca = cluster_ca

    async def Locate(self, request: LocateRequest, context: Any) -> LocateResponse:  # noqa: N802
        address = peer_address(context)
        position = None if address is None else self._locator.locate(str(address))
        limit = min(request.limit or _CANDIDATES, _MOST_CANDIDATES)
        found = self._roster.candidates(position, region=request.region, limit=limit)
        if not found:
            raise self._nobody(request.region)
        return LocateResponse(
            candidates=[
                Candidate(node=node, expected_rtt_ms=ranked.expected_rtt_ms, distance_km=ranked.distance_km)
                for node, ranked in found
            ],
            cluster_ca=self._cluster_ca,
            grant=self._grant(),
            client_country="" if position is None else position.country,
        )

    async def Renew(self, request: RenewRequest, context: Any) -> RenewResponse:  # noqa: N802
        return RenewResponse(grant=self._grant())

    def _grant(self) -> Grant:
        token = current_caller.get().token
        assert token is not None, "the table lets only tokens in here"
        return self._grants.sign(token)

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
