"""Probing the advertised addresses of other nodes for a registry, as a client would dial them."""

from collections.abc import Callable

from portway_carrier.contract import Carrier
from portway_carrier.errors import CarrierError
from portway_carrier.values import ClientTls
from portway_proto.v1.mesh_pb2 import Probe, Probed
from portway_proto.wire.limits import LINK_ALPN
from portway_runtime.endpoints import Endpoint
from portway_runtime.tasks import Tasks

from portway_relay.certificates import LoadedCertificates


class AddressProber:
    """Carries out a registry's Probe orders. A probe succeeds when the address completes a TLS handshake with that
    node's certificate and accepts a client's lane."""

    def __init__(
        self,
        carrier: Carrier,
        certificates: Callable[[], LoadedCertificates],
        report: Callable[[Probed], None],
        *,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`report` is called with the result of each probe."""
        self._carrier = carrier
        self._certificates = certificates
        self._report = report
        self._tasks = Tasks("probing", on_failure)

    def probe(self, order: Probe) -> None:
        """Begin a probe."""
        self._tasks.spawn(self._probe(order), name="probe")

    async def close(self) -> None:
        """Cancel the probes in progress; their results are not reported."""
        await self._tasks.close()

    async def _probe(self, order: Probe) -> None:
        node = order.node
        tls = ClientTls(self._certificates().ca, node.server_name, LINK_ALPN)
        stream = self._carrier.connect(Endpoint(node.host, node.port), tls)
        failure = ""
        try:
            handshake = await stream.ready()
            if handshake.alpn != LINK_ALPN:
                failure = "the server at this address takes no clients' lanes: is it a relay node?"
        except CarrierError as error:
            failure = str(error)
        finally:
            stream.abort()
        self._report(Probed(number=order.number, failure=failure))
