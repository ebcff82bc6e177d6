"""portway.engine.dial: what a connection must be like, and what it says of the distance."""

import asyncio
from typing import Any

import pytest
from portway.engine import dial as module
from portway.engine.dial import DialFailed, dial, given_up
from portway.engine.directory import Node, RoundTrip
from portway_carrier.errors import CarrierError, ConnectFailed, HandshakeFailed, TlsSettingsError
from portway_carrier.values import ClientTls, Handshake
from portway_proto.wire.limits import LINK_ALPN
from portway_runtime.endpoints import Endpoint

NODE = Node("fra-1", "fra", Endpoint("192.0.2.1", 443), "fra-1.node.portway.internal")


class Stream:
    """Is ready with what it was given, or never."""

    def __init__(self, outcome: Handshake | CarrierError | None) -> None:
        self.outcome = outcome
        self.aborted = False

    async def ready(self) -> Handshake:
        if self.outcome is None:
            await asyncio.Event().wait()
        if isinstance(self.outcome, CarrierError):
            raise self.outcome
        assert self.outcome is not None
        return self.outcome

    def abort(self) -> None:
        self.aborted = True


class Carrier:
    def __init__(self, outcome: Handshake | CarrierError | None) -> None:
        self.stream = Stream(outcome)
        self.asked: list[tuple[Endpoint, ClientTls]] = []

    def connect(self, address: Endpoint, tls: ClientTls) -> Any:
        self.asked.append((address, tls))
        if isinstance(self.stream.outcome, TlsSettingsError):
            raise self.stream.outcome
        return self.stream


async def test_the_node_is_verified_by_its_name_and_the_cluster_s_ca() -> None:
    """And asked for lanes."""
    carrier = Carrier(Handshake(LINK_ALPN, None, 0.05, 0.02))
    dialled = await dial(carrier, NODE, b"ca")  # type: ignore[arg-type]
    assert dialled.stream is carrier.stream
    assert carrier.asked == [(NODE.address, ClientTls(b"ca", NODE.server_name, LINK_ALPN))]


@pytest.mark.parametrize(("kernel", "ms"), [(0.0125, 12.5), (None, 25.0)])
async def test_a_round_trip_is_the_kernel_s_or_half_of_both_handshakes(kernel: float | None, ms: float) -> None:
    """TCP's and that of TLS are one each; `took` is both, with all that is in it."""
    carrier = Carrier(Handshake(LINK_ALPN, None, 0.05, kernel))
    dialled = await dial(carrier, NODE, b"ca")  # type: ignore[arg-type]
    assert dialled.round_trip == RoundTrip("fra-1", ms)
    assert dialled.took == 0.05


@pytest.mark.parametrize(
    ("outcome", "reason", "short"),
    [
        (ConnectFailed("nobody listens", refused=True), "nobody listens", "refused"),
        (ConnectFailed("no such host"), "no such host", "unreachable"),
        (HandshakeFailed("of another CA", untrusted=True), "of another CA", "wrong certificate"),
        (HandshakeFailed("garbage"), "garbage", "TLS failed"),
        (TlsSettingsError("no CA"), "no CA", "failed"),
        (Handshake("h2", None, 0.05, 0.02), "it is no relay node", "no relay node"),
        (Handshake(None, None, 0.05, 0.02), "it is no relay node", "no relay node"),
    ],
)
async def test_what_is_no_node_says_nothing_of_the_distance(outcome: Any, reason: str, short: str) -> None:
    """A refusal may come from anywhere on the way."""
    carrier = Carrier(outcome)
    with pytest.raises(DialFailed, match=reason) as raised:
        await dial(carrier, NODE, b"ca")  # type: ignore[arg-type]
    assert raised.value.round_trip is None
    assert raised.value.short == short
    assert carrier.stream.aborted == isinstance(outcome, Handshake)


async def test_who_does_not_answer_is_known_to_be_no_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Than half of the time it had."""
    monkeypatch.setattr(module, "DIAL_TIMEOUT", 0.01)
    carrier = Carrier(None)
    with pytest.raises(DialFailed, match="no connection within") as raised:
        await dial(carrier, NODE, b"ca")  # type: ignore[arg-type]
    assert raised.value.short == "timed out after 0.01 s"
    assert raised.value.round_trip == given_up(NODE, 0.01) == RoundTrip("fra-1", 5.0, at_least=True)
    assert carrier.stream.aborted
