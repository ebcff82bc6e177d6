"""Requests and bindings as the engine's parts get them, without an engine."""

from collections.abc import Callable

import pytest
from portway.config import Settings
from portway.engine.binding import Binding
from portway.engine.identity import Identity
from portway.forwarding import Request
from portway_proto.wire.labels import Chain

MakeBinding = Callable[..., Binding]


@pytest.fixture
def settings() -> Settings:
    return Settings(("registry.test:7400",), "pw_id_secret")


@pytest.fixture
def make_binding(settings: Settings) -> MakeBinding:
    """A tunnel of a port that was asked for, with an identity of its own; `lost` collects those that are lost."""

    def make(port: int = 8000, *, lost: list[Binding] | None = None, tunnel_lost: object = None) -> Binding:
        request = Request(port, None, False, False, 10.0, settings, tunnel_lost)  # type: ignore[arg-type]
        return Binding(request, Identity(Chain()), (lambda _: None) if lost is None else lost.append)

    return make
