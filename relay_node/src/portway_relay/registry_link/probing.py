"""Trying another node's advertised address for a registry, as a client would: is it there, and is it that node?"""

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
    """Does what registries ask for, and tells what came of it."""

    def __init__(
        self,
        carrier: Carrier,
        certificates: Callable[[], LoadedCertificates],
        tell: Callable[[Probed], None],
        *,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._carrier = carrier
        self._certificates = certificates
        self._tell = tell
        self._tasks = Tasks("probing", on_failure)

    def probe(self, asked: Probe) -> None:
        self._tasks.spawn(self._probe(asked), name="probe")

    async def close(self) -> None:
        await self._tasks.close()

    async def _probe(self, asked: Probe) -> None:
        node = asked.node
        tls = ClientTls(self._certificates().ca, node.server_name, LINK_ALPN)
        stream = self._carrier.connect(Endpoint(node.host, node.port), tls)
        failure = ""
        try:
            handshake = await stream.ready()
            if handshake.alpn != LINK_ALPN:
                failure = "what answers there takes no clients' lanes: is it a relay node?"
        except CarrierError as error:
            failure = str(error)
        finally:
            stream.abort()
        self._tell(Probed(number=asked.number, failure=failure))
