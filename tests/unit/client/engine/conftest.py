"""Requests and bindings as the engine's parts get them, without an engine."""

from collections.abc import Callable

import pytest
from portway.config import Settings
from portway.engine.held_tunnel import HeldTunnel, LabelChain
from portway.tunnel import TunnelRequest
from portway_proto.wire.labels import Chain

MakeTunnel = Callable[..., HeldTunnel]


@pytest.fixture
def settings() -> Settings:
    return Settings(("registry.test:7400",), "pw_id_secret")


@pytest.fixture
def make_tunnel(settings: Settings) -> MakeTunnel:
    """A tunnel of a port that was asked for, with an identity of its own; `lost` collects those that are lost."""

    def make(port: int = 8000, *, lost: list[HeldTunnel] | None = None, tunnel_lost: object = None) -> HeldTunnel:
        request = TunnelRequest(port, None, False, False, 10.0, settings, tunnel_lost)  # type: ignore[arg-type]
        return HeldTunnel(request, LabelChain(Chain()), (lambda _: None) if lost is None else lost.append)

    return make
