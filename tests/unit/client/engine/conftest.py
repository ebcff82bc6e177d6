"""Requests and bindings as the engine's parts get them, without an engine."""

import threading
from collections.abc import Callable

import pytest
from portway.config import Settings
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.key_file import WRITER, KeyFile
from portway.tunnel import Before, TunnelRequest

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
        )
        return HeldTunnel(request, (lambda _: None) if lost is None else lost.append, key_file)

    return make
