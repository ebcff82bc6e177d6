"""The Enrolment service, which new nodes call with an invitation's token: their first certificate."""

from typing import Any

from portway_proto.v1.enrolment_pb2 import JoinRequest, JoinResponse
from portway_proto.v1.enrolment_pb2_grpc import EnrolmentServicer

from portway_registry.nodes.certificates import NodeCertificates
from portway_registry.services.callers import current_caller


class Enrolment(EnrolmentServicer):
    """Callers are identified by their invitations."""

    def __init__(self, certificates: NodeCertificates) -> None:
        self._certificates = certificates

    async def Join(self, request: JoinRequest, context: Any) -> JoinResponse:  # noqa: N802
        invitation = current_caller.get().invitation
        assert invitation is not None, "METHOD_ROLES admits only invitations here"
        issued = await self._certificates.join(invitation, node=request.node, region=request.region, csr=request.csr)
        return JoinResponse(certificate=issued)
