"""The Enrolment service, which new nodes call with an invitation's token: their first certificate, and where registries
are."""

from typing import Any, Final

from portway_proto.v1.enrolment_pb2 import JoinRequest, JoinResponse
from portway_proto.v1.enrolment_pb2_grpc import EnrolmentServicer

from portway_registry.nodes.certificates import NodeCertificates
from portway_registry.services.callers import current_caller
from portway_registry.state.views import Views

_MOST_REGISTRIES: Final = 64


class Enrolment(EnrolmentServicer):
    """Callers are identified by their invitations."""

    def __init__(self, certificates: NodeCertificates, views: Views) -> None:
        self._certificates = certificates
        self._views = views

    async def Join(self, request: JoinRequest, context: Any) -> JoinResponse:  # noqa: N802
        invitation = current_caller.get().invitation
        assert invitation is not None, "METHOD_ROLES admits only invitations here"
        issued = await self._certificates.join(invitation, node=request.node, region=request.region, csr=request.csr)
        # From this answer on the node is known here by its new certificate, and by no earlier one.
        await self._views.identities.caught_up(request.node)
        await self._views.orders.caught_up(request.node)
        registries = sorted({address for replica in self._views.replicas.values() for address in replica.mesh})
        return JoinResponse(certificate=issued, registries=registries[:_MOST_REGISTRIES])
