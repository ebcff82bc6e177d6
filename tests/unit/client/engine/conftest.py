"""Requests and bindings as the engine's parts get them, without an engine.

Also a link, the tunnels of one, and a search for nodes, among fakes.
"""

import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from portway.config import Settings
from portway.engine import link as link_module
from portway.engine import search as search_module
from portway.engine import tunnel_set as tunnel_set_module
from portway.engine.directory import Directory
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.key_file import WRITER, KeyFile
from portway.engine.search import Search
from portway.tunnel import Before, TunnelRequest
from portway_runtime import backoff
from portway_testkit.fakes import fake_nodes
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.fake_link import FakeLanes, FakeReturns, FakeSearch, World
from portway_testkit.fakes.fake_tunnel_set import FakeSession, Owner

MakeTunnel = Callable[..., HeldTunnel]


@pytest.fixture
def settings() -> Settings:
    return Settings(("registry.test:7400",), "pw_id_secret")


@pytest.fixture
def tickets_written() -> Callable[[], None]:
    """Returns once the tickets of every key file are written."""

    def join() -> None:
        for thread in threading.enumerate():
            if thread.name == WRITER:
                thread.join()

    return join


@pytest.fixture
def make_tunnel(settings: Settings) -> MakeTunnel:
    """A tunnel of a port that was asked for, with an identity of its own; `lost` collects those that are lost."""

    def make(
        port: int = 8000,
        *,
        lost: list[HeldTunnel] | None = None,
        tunnel_lost: object = None,
        unencrypted: bool = False,
        key_file: KeyFile | None = None,
        before: Before | None = None,
        proxy_protocol: int = 0,
    ) -> HeldTunnel:
        request = TunnelRequest(
            port,
            None,
            unencrypted,
            False,
            10.0,
            settings,
            tunnel_lost,  # type: ignore[arg-type]
            before=before,
            proxy_protocol=proxy_protocol,
        )
        return HeldTunnel(request, (lambda _: None) if lost is None else lost.append, key_file)

    return make


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    search = FakeSearch(ManualClock())
    monkeypatch.setattr(link_module, "Search", lambda *_: search)
    returns = FakeReturns()
    monkeypatch.setattr(link_module, "Returns", lambda *_: returns)
    monkeypatch.setattr(link_module, "DataLanes", FakeLanes)
    monkeypatch.setattr(backoff, "random", random.Random(7))
    world = World(search, returns)
    yield world
    await world.link.close()
    await world.tasks.close()


@pytest.fixture
async def owner(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Owner]:
    def at_once() -> Iterator[float]:
        while True:
            yield 0.0

    monkeypatch.setattr(tunnel_set_module, "pauses", at_once)
    owner = Owner()
    yield owner
    await owner.tasks.close()


@pytest.fixture
async def opened(owner: Owner, make_tunnel: MakeTunnel) -> tuple[HeldTunnel, FakeSession]:
    """A tunnel that is open, on the session that holds it."""
    session, held = owner.session(), make_tunnel()
    owner.tunnels.add(held)
    await owner.tunnels.bind(session, held)  # type: ignore[arg-type]
    return held, session


@pytest.fixture
def carrier(monkeypatch: pytest.MonkeyPatch) -> fake_nodes.FakeCarrier:
    monkeypatch.setattr(search_module, "Session", fake_nodes.FakeSession)
    monkeypatch.setattr(fake_nodes.FakeSession, "hellos", [])
    monkeypatch.setattr(fake_nodes.FakeSession, "dropped", 0)
    return fake_nodes.FakeCarrier()


@pytest.fixture
def search(carrier: fake_nodes.FakeCarrier) -> Callable[[fake_nodes.FakeRegistries], Search]:
    return lambda registries: Search(carrier, Directory(registries, fake_nodes.SIGNER), fake_nodes.SIGNER)  # type: ignore[arg-type]
