"""The fixtures of a carrier's contract tests. A second carrier is tested by adding its name to CARRIERS."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable

import pytest
import trustme
import uvloop
from portway_carrier.contract import Carrier
from portway_carrier.errors import CarrierError
from portway_carrier.python import PythonCarrier
from portway_carrier.values import (
    ClientTls,
    DialTarget,
    Limits,
    LocalService,
    PoolLimits,
    ProxyHeaderForm,
    ServerTls,
    SpareSizes,
)
from portway_proto.wire.frames import FrameType, encode_frame
from portway_proto.wire.lane import Side
from portway_runtime.endpoints import Endpoint
from portway_testkit.authority import tls_of
from portway_testkit.links.carrier_link import (
    LABEL,
    CarrierLink,
    CarrierMaker,
    LinkMaker,
    RawAcceptorMaker,
    RawLane,
    RawNode,
    RawNodeMaker,
    RawOpenerMaker,
    until,
)
from portway_testkit.links.pool_visitors import WAIT, Visitors

CARRIERS: dict[str, Callable[[Limits], Carrier]] = {"python": PythonCarrier}


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Each test runs on both loops that the Python carrier runs on."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=sorted(CARRIERS))
def carrier_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> ServerTls:
    return tls_of(authority, "node.test")


@pytest.fixture(scope="session")
def client_tls(authority: trustme.CA) -> ClientTls:
    return ClientTls(authority.cert_pem.bytes(), "node.test")


@pytest.fixture
async def make_carrier(carrier_name: str) -> AsyncIterator[CarrierMaker]:
    made: list[Carrier] = []

    def make(limits: Limits | None = None) -> Carrier:
        made.append(CARRIERS[carrier_name](limits or Limits()))
        return made[-1]

    yield make
    for carrier in made:
        await carrier.close()


@pytest.fixture
async def make_link(
    make_carrier: CarrierMaker, server_tls: ServerTls, client_tls: ClientTls
) -> AsyncIterator[LinkMaker]:
    links: list[CarrierLink] = []

    async def make(
        limits: Limits | None = None,
        sizes: SpareSizes | None = None,
        pool_limits: PoolLimits | None = None,
    ) -> CarrierLink:
        link = CarrierLink(make_carrier(limits), make_carrier(limits), server_tls, client_tls)
        links.append(link)
        await link.start(sizes or SpareSizes(), pool_limits or PoolLimits())
        return link

    yield make
    for link in links:
        await link.close()


@pytest.fixture
async def link(make_link: LinkMaker) -> CarrierLink:
    return await make_link()


@pytest.fixture(scope="session")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """The TLS context of a visitor, or of a client without a carrier."""
    return ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())


@pytest.fixture(scope="session")
def trusting_only(authority: trustme.CA) -> Callable[[ssl.TLSVersion], ssl.SSLContext]:
    """The same for one version of TLS."""

    def make(version: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        context.minimum_version = context.maximum_version = version
        return context

    return make


@pytest.fixture
async def raw_acceptor(trusting: ssl.SSLContext) -> AsyncIterator[RawAcceptorMaker]:
    """Makes a data lane of a link's node whose far end, the acceptor, is driven by hand."""
    lanes: list[RawLane] = []

    async def make(link: CarrierLink) -> RawLane:
        at = link.link_address
        lanes.append(
            RawLane(*await asyncio.open_connection(at.host, at.port, ssl=trusting, server_hostname="node.test"))
        )
        count = link.pool.counts.idle
        lanes[-1].send(encode_frame(FrameType.PARK, b"park"))
        await until(lambda: link.pool.counts.idle == count + 1)
        return lanes[-1]

    yield make
    for lane in lanes:
        lane.writer.transport.abort()


@pytest.fixture
async def raw_node(client_tls: ClientTls, authority: trustme.CA) -> AsyncIterator[RawNodeMaker]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("node.test").configure_cert(context)
    made: list[RawLane] = []
    servers: list[asyncio.Server] = []

    async def make() -> RawNode:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            made.append(RawLane(reader, writer))
            await node.lanes.put(made[-1])

        server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=context)
        servers.append(server)
        address = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
        node = RawNode(DialTarget(address, client_tls, (FrameType.PARK, b"park")))
        return node

    yield make
    for server in servers:
        server.close()
    for lane in made:
        lane.writer.transport.abort()


@pytest.fixture
async def make_visitors(
    make_carrier: Callable[..., Carrier], client_tls: ClientTls
) -> AsyncIterator[Callable[..., Visitors]]:
    made: list[Visitors] = []

    def make(
        address: Endpoint,
        wait: float = WAIT,
        lost: Callable[[CarrierError], None] = lambda _: None,
        on: Carrier | None = None,
    ) -> Visitors:
        carrier = on or make_carrier(Limits(handshake=WAIT))
        target = DialTarget(address, client_tls, (FrameType.PEER, b"peer"))
        pool = carrier.dialling_pool(target, Side.OPENER, SpareSizes(quiet=1, busy=2, wait=wait), lost)
        made.append(Visitors(carrier, pool))
        return made[-1]

    yield make
    for visitors in made:
        visitors.close()


@pytest.fixture
def raw_opener(make_carrier: CarrierMaker, raw_node: RawNodeMaker) -> RawOpenerMaker:
    """Makes a lane that a serving carrier dialled and whose far end, the opener, is driven by hand."""

    async def make(port: int, limits: Limits | None = None, form: ProxyHeaderForm | None = None) -> RawLane:
        carrier, node = make_carrier(limits), await raw_node()
        sizes = SpareSizes(quiet=1, busy=1, lanes=1)
        pool = carrier.dialling_pool(node.target, Side.ACCEPTOR, sizes, lambda error: None)
        carrier.serve(pool, {LABEL: LocalService(port, None, form)})
        lane = await node.lanes.get()
        assert (await lane.frame())[0] == FrameType.PARK
        return lane

    return make
