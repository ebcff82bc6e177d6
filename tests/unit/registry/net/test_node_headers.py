"""Which PROXY headers are believed: those of a node, for this replica, of now, and each once."""

import secrets

import pytest
from portway_registry.net.node_headers import FRESH_MS, NodeHeaders, PassedOn, Refusal
from portway_runtime.endpoints import Endpoint
from portway_runtime.node_headers import NONCE_SIZE, write_header
from portway_runtime.proxy_protocol import Parsed, ProxyHeader, encode_v2, parse

NOW = 1_800_000_000_000
KEY, NEXT = b"k" * 32, b"n" * 32
VISITOR, AT = Endpoint("203.0.113.9", 50_000), Endpoint("198.51.100.1", 443)


class Desk:
    """What judges the headers of fra-1, which has two keys, at a time that the test sets."""

    def __init__(self, most: int = 100) -> None:
        self.now = NOW
        self.headers = NodeHeaders("r-1", self.keys_of, lambda: self.now, most=most)

    def keys_of(self, node: str) -> tuple[bytes, ...]:
        return (KEY, NEXT) if node in ("fra-1", "lon-1") else ()

    def judge(self, data: bytes) -> PassedOn | Refusal:
        found = parse(data)
        assert isinstance(found, Parsed)
        return self.headers.judge(found.header)

    def written(
        self, key: bytes = KEY, node: str = "fra-1", replica: str = "r-1", source: Endpoint = VISITOR, later: int = 0
    ) -> bytes:
        nonce = secrets.token_bytes(NONCE_SIZE)
        return write_header(key, node, replica, source, AT, self.now + later, nonce)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize("key", [KEY, NEXT])
@pytest.mark.parametrize("source", [VISITOR, Endpoint("2001:db8::9", 50_000)])
def test_a_node_s_header_is_believed(desk: Desk, key: bytes, source: Endpoint) -> None:
    """By each of its keys; it says which node, and where the connection came from."""
    assert desk.judge(desk.written(key, source=source)) == PassedOn("fra-1", source)


def test_no_other_one_is(desk: Desk) -> None:
    """Of another key, another node, for another replica, or without a proof."""
    assert desk.judge(desk.written(b"x" * 32)) is Refusal.FORGED
    assert desk.judge(desk.written(node="fra-2")) is Refusal.FORGED
    assert desk.judge(desk.written(replica="r-2")) is Refusal.FORGED
    assert desk.judge(encode_v2(ProxyHeader(VISITOR, AT))) is Refusal.UNPROVED
    assert desk.judge(encode_v2(ProxyHeader(None, None))) is Refusal.UNPROVED


def test_a_header_is_believed_once(desk: Desk) -> None:
    """As long as it is fresh it is remembered, and afterwards it is stale."""
    data = desk.written(later=FRESH_MS)
    assert isinstance(desk.judge(data), PassedOn)
    for passed in (0, FRESH_MS, 2 * FRESH_MS):
        desk.now = NOW + passed
        assert desk.judge(data) is Refusal.REPLAYED
        assert isinstance(desk.judge(desk.written()), PassedOn)
    desk.now = NOW + 2 * FRESH_MS + 1
    assert desk.judge(data) is Refusal.STALE


@pytest.mark.parametrize("later", [-FRESH_MS - 1, FRESH_MS + 1])
def test_a_header_of_another_time_is_stale(desk: Desk, later: int) -> None:
    """In the past or in the future; within the limits it is not."""
    assert desk.judge(desk.written(later=later)) is Refusal.STALE
    assert isinstance(desk.judge(desk.written(later=later + (1 if later < 0 else -1))), PassedOn)


def test_a_node_has_a_number_of_headers() -> None:
    """More are not believed until the first are forgotten; other nodes' are."""
    desk = Desk(most=3)
    assert all(isinstance(desk.judge(desk.written()), PassedOn) for _ in range(3))
    assert desk.judge(desk.written()) is Refusal.SURPLUS
    assert isinstance(desk.judge(desk.written(node="lon-1")), PassedOn)
    desk.now += 2 * FRESH_MS + 1
    assert isinstance(desk.judge(desk.written()), PassedOn)
