"""What every contract test of a carrier starts from. A second carrier is tested by adding its name to CARRIERS."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trustme
import uvloop
from portway_proto.carry.contract import Carrier, ClientTls, Limits, PoolLimits, ServerTls, SpareSizes
from portway_proto.carry.python import PythonCarrier
from portway_testkit.carriers import CarrierLink

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
    leaf = authority.issue_cert("node.test")
    return ServerTls(b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes())


@pytest.fixture(scope="session")
def client_tls(authority: trustme.CA) -> ClientTls:
    return ClientTls(authority.cert_pem.bytes(), "node.test")


@pytest.fixture
async def make_carrier(carrier_name: str) -> AsyncIterator[Callable[..., Carrier]]:
    made: list[Carrier] = []

    def make(limits: Limits | None = None) -> Carrier:
        made.append(CARRIERS[carrier_name](limits or Limits()))
        return made[-1]

    yield make
    for carrier in made:
        await carrier.close()


@pytest.fixture
async def make_link(
    make_carrier: Callable[..., Carrier], server_tls: ServerTls, client_tls: ClientTls
) -> AsyncIterator[Callable[..., Awaitable[CarrierLink]]]:
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
async def link(make_link: Callable[..., Awaitable[CarrierLink]]) -> CarrierLink:
    return await make_link()
