"""Probing the advertised addresses of other nodes for a registry, as a client would dial them."""

from collections.abc import Callable, Collection

from portway_carrier.contract import Carrier
from portway_carrier.errors import CarrierError, HandshakeFailed
from portway_carrier.values import ClientTls
from portway_proto.v1.mesh_pb2 import Probe, Probed
from portway_proto.v1.types_pb2 import NodeInfo
from portway_proto.wire.limits import LINK_ALPN
from portway_runtime.address_scopes import NOT_THIS_NODE, UNREACHABLE, Scope, allowed_addresses, failure_of
from portway_runtime.dialling import race
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import AddressNotAllowed
from portway_runtime.names import Names
from portway_runtime.tasks import Tasks

from portway_relay.certificates import LoadedCertificates


class _NotReached(OSError):
    """Why one address does not lead to the node, an outcome and details."""


class AddressProber:
    """Carries out a registry's Probe orders. A probe succeeds when the address completes a TLS handshake with that
    node's certificate and accepts a client's lane."""

    def __init__(
        self,
        carrier: Carrier,
        certificates: Callable[[], LoadedCertificates],
        report: Callable[[Probed], None],
        allowed: Collection[Scope],
        *,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`report` is called with the result of each probe. Only addresses of the `allowed` scopes are dialled: another
        node must not learn what is open in this node's network."""
        self._carrier = carrier
        self._certificates = certificates
        self._report = report
        self._allowed = allowed
        # Others say what these names are: their look-ups must not hold up those of this node's peers.
        self._names = Names()
        self._tasks = Tasks("probing", on_failure)

    def probe(self, order: Probe) -> None:
        """Begin a probe."""
        self._tasks.spawn(self._probe(order), name="probe")

    async def close(self) -> None:
        """Cancel the probes in progress; their results are not reported."""
        await self._tasks.close()

    async def _probe(self, order: Probe) -> None:
        self._report(Probed(number=order.number, failure=await self._failure(order.node)))

    async def _failure(self, node: NodeInfo) -> str:
        """Why the node is not reached, an outcome and details for the registry's log; "" if it is."""
        try:
            addresses = await allowed_addresses(self._names, node.host, self._allowed)
        except AddressNotAllowed as error:
            return failure_of(error)
        except (OSError, UnicodeError) as error:
            return f"{UNREACHABLE}: the name {node.host} cannot be resolved: {error}"
        try:
            await race(
                addresses,
                lambda address: self._dial(Endpoint(address, node.port), node.server_name),
                lambda reached: None,
            )
        except _NotReached as error:
            return str(error)
        return ""

    async def _dial(self, address: Endpoint, server_name: str) -> None:
        """Raises _NotReached."""
        stream = self._carrier.connect(address, ClientTls(self._certificates().ca, server_name, LINK_ALPN))
        try:
            handshake = await stream.ready()
        except CarrierError as error:
            # The alert is that of a node with another name.
            other = isinstance(error, HandshakeFailed) and (error.untrusted or "UNRECOGNIZED_NAME" in str(error))
            raise _NotReached(f"{NOT_THIS_NODE if other else UNREACHABLE}: {error}") from None
        finally:
            stream.abort()
        if handshake.alpn != LINK_ALPN:
            raise _NotReached(f"{NOT_THIS_NODE}: the server at this address takes no clients' lanes")
