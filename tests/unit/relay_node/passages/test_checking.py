"""A replica of the registry that has not answered a caller is asked by the node itself."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trustme
from portway_carrier.python import PythonCarrier
from portway_carrier.values import Limits
from portway_proto.v1.mesh_pb2 import RegistryFront, RegistryFronts
from portway_relay.passages import checking
from portway_relay.passages.checking import FrontCheck
from portway_relay.passages.fronts import Fronts
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.registry_replicas import KEY, NAME
from portway_testkit.waiting import PATIENCE

OWN_CA = trustme.CA()


class Asked:
    """A node's check, and how often its replica was asked."""

    def __init__(self, carrier: PythonCarrier, clock: ManualClock) -> None:
        self.fronts = Fronts(clock)
        self.failures: list[BaseException] = []
        ca = OWN_CA.cert_pem.bytes()
        self.check = FrontCheck(self.fronts, carrier, lambda: ca, clock, on_failure=self.failures.append)
        self.times = 0

    @asynccontextmanager
    async def of(self, serve: Callable[..., object], context: ssl.SSLContext | None = None) -> AsyncIterator[None]:
        async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.times += 1
            try:
                await serve(reader, writer)  # type: ignore[misc]
            finally:
                writer.close()

        server = await asyncio.start_server(counted, "127.0.0.1", 0, ssl=context)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.fronts.learn(RegistryFronts(name=NAME, key=KEY, fronts=[RegistryFront(replica="r-1", address=address)]))
        async with server:
            yield

    async def is_away(self) -> bool:
        """Whether the replica is taken for away once it was asked."""
        (front,) = self.fronts.in_order()
        self.check.doubt(front)
        await self.check._tasks.over()
        return front.away_until > 0


@pytest.fixture
async def asked(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asked]:
    monkeypatch.setattr(checking, "_ANSWERED_WITHIN", PATIENCE)
    carrier = PythonCarrier(Limits())
    asked = Asked(carrier, clock)
    yield asked
    await asked.check.close()
    await carrier.close()
    assert not asked.failures


def shows_certificate_of(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(65_536):
        pass


async def ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


@pytest.mark.parametrize("authority", [OWN_CA, trustme.CA()], ids=["own", "another"])
@pytest.mark.parametrize("name", [NAME, "other.example.com"])
async def test_one_that_shows_a_certificate_answers(asked: Asked, authority: trustme.CA, name: str) -> None:
    """Of whatever CA, and for whatever name: a node does not know who issues those of the registry's public port."""
    async with asked.of(reads, shows_certificate_of(authority, name)):
        assert not await asked.is_away()


@pytest.mark.parametrize("serve", [reads, ends], ids=["silent", "closes"])
async def test_one_that_does_not_answer_the_node_either_is_away(
    asked: Asked, serve: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "_ANSWERED_WITHIN", 0.5)
    async with asked.of(serve):
        assert await asked.is_away()


async def test_it_is_asked_once_however_many_callers_got_no_answer(asked: Asked, clock: ManualClock) -> None:
    """A check costs the replica a handshake, and a caller may bring about many."""
    async with asked.of(ends):
        for _ in range(5):
            await asked.is_away()
        assert asked.times == 1
        clock.now += checking._ANSWERED_WITHIN + checking._ASKED_EVERY
        await asked.is_away()
        assert asked.times == 2
