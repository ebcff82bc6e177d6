"""gRPC through a tunnel with `h2_enabled`, and who is offered HTTP/2 at all."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import grpc
import portway
import pytest
from portway_lab.cluster.portway import LOOPBACK, Cluster
from portway_testkit.visitors.origins import TcpOrigin, echo
from portway_testkit.visitors.visiting import visit

pytestmark = [
    pytest.mark.usefixtures("client_environment"),
    pytest.mark.shares_sockets,
    pytest.mark.timeout(180),
]

CALL_TIMEOUT = 20.0
MIB = 1 << 20


def _double(request: bytes, context: grpc.ServicerContext) -> bytes:
    return request * 2


def _count(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    return (str(number).encode() for number in range(int(request)))


def _chat(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    return (request.upper() for request in requests)


def _gather(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    return str(sum(len(request) for request in requests)).encode()


HANDLERS: dict[str, Any] = {
    "Double": grpc.unary_unary_rpc_method_handler(_double),
    "Count": grpc.unary_stream_rpc_method_handler(_count),
    "Chat": grpc.stream_stream_rpc_method_handler(_chat),
    "Gather": grpc.stream_unary_rpc_method_handler(_gather),
}


@pytest.fixture
def server_port() -> Iterator[int]:
    """A gRPC server in clear text, as programs behind tunnels are; messages are plain bytes."""
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool, options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", HANDLERS)])
        port = server.add_insecure_port(f"{LOOPBACK}:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


@contextmanager
def grpc_visitor(tunnel: portway.Tunnel, cluster: Cluster) -> Iterator[Any]:
    """A channel to the public address, which gRPC's own resolver does not find at loopback.

    Without a type: grpc's stubs have none for calls whose messages are plain bytes.
    """
    options = [
        ("grpc.ssl_target_name_override", tunnel.host),
        ("grpc.default_authority", tunnel.host),
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    credentials = grpc.ssl_channel_credentials(cluster.ca.read_bytes())
    with grpc.secure_channel(f"ipv4:{LOOPBACK}:{tunnel.port}", credentials, options) as channel:
        yield channel


def test_every_kind_of_call(cluster: Cluster, server_port: int) -> None:
    """Unary calls and streams in either and in both directions work over one connection, with messages of MiBs."""
    large = b"x" * (4 * MIB)
    with portway.forward(server_port, h2_enabled=True) as tunnel, grpc_visitor(tunnel, cluster) as channel:
        assert channel.unary_unary("/test.Echo/Double")(b"ab", timeout=CALL_TIMEOUT) == b"abab"
        assert channel.unary_unary("/test.Echo/Double")(large, timeout=CALL_TIMEOUT) == large * 2
        counted = channel.unary_stream("/test.Echo/Count")(b"1000", timeout=CALL_TIMEOUT)
        assert list(counted) == [str(number).encode() for number in range(1000)]
        gathered = channel.stream_unary("/test.Echo/Gather")(iter([large] * 3), timeout=CALL_TIMEOUT)
        assert gathered == str(3 * len(large)).encode()


def test_a_conversation(cluster: Cluster, server_port: int) -> None:
    """In a stream both ways each answer arrives before the next question is asked."""
    questions: SimpleQueue[bytes] = SimpleQueue()
    with portway.forward(server_port, h2_enabled=True) as tunnel, grpc_visitor(tunnel, cluster) as channel:
        call = channel.stream_stream("/test.Echo/Chat")(iter(questions.get, b""), timeout=CALL_TIMEOUT)
        for length in range(1, 20):
            questions.put(b"a" * length)
            assert next(call) == b"A" * length
        questions.put(b"")
        assert list(call) == []


def test_an_error_of_the_server_reaches_the_caller(cluster: Cluster, server_port: int) -> None:
    """Status codes travel in trailers, which arrive."""
    with portway.forward(server_port, h2_enabled=True) as tunnel, grpc_visitor(tunnel, cluster) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.Echo/Nothing")(b"", timeout=CALL_TIMEOUT)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("h2_enabled", "offered", "chosen"),
    [
        (True, ("h2",), "h2"),
        (True, ("h2", "http/1.1"), "http/1.1"),
        (True, ("http/1.1", "h2"), "http/1.1"),
        (True, ("http/1.1",), "http/1.1"),
        (True, (), None),
        (False, ("h2",), None),
        (False, ("h2", "http/1.1"), "http/1.1"),
    ],
)
def test_who_is_given_h2(cluster: Cluster, h2_enabled: bool, offered: tuple[str, ...], chosen: str | None) -> None:
    """HTTP/2 is for those who cannot do HTTP/1.1, on tunnels that asked for it: browsers offer both."""
    with TcpOrigin(echo) as origin, portway.forward(origin.port, h2_enabled=h2_enabled) as tunnel:
        with visit(tunnel, cluster.ca, *offered) as visitor:
            assert visitor.selected_alpn_protocol() == chosen
