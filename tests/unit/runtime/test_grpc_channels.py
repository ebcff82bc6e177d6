"""gRPC's failures, by what they mean."""

import socket
import subprocess
import sys
from typing import cast

import grpc
import pytest
from portway_runtime.endpoints import Endpoint
from portway_runtime.grpc_channels import (
    KEEPALIVE,
    KEEPALIVE_WHEN_IDLE,
    OWN_CONNECTIONS,
    CallFault,
    fault_of,
    looks_up_itself,
    reason_of,
    target_of,
)
from portway_runtime.names import Address

_TO_LISTENERS = "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: "


@pytest.mark.parametrize(
    ("code", "details", "fault"),
    [
        ("UNAVAILABLE", _TO_LISTENERS + "CERTIFICATE_VERIFY_FAILED: self signed certificate", CallFault.UNTRUSTED),
        ("UNAVAILABLE", _TO_LISTENERS + "Hostname Verification Check failed.", CallFault.WRONG_NAME),
        ("UNAVAILABLE", "SSL_ERROR_SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED", CallFault.OWN_CERTIFICATE),
        ("UNAVAILABLE", "SSL_ERROR_SSL: TLSV1_ALERT_UNKNOWN_CA", CallFault.OWN_CERTIFICATE),
        ("UNAVAILABLE", "SSL_ERROR_SSL: SSLV3_ALERT_BAD_CERTIFICATE", CallFault.OWN_CERTIFICATE),
        ("UNAVAILABLE", "Failed to create security handshaker", CallFault.CA_UNUSABLE),
        ("UNAVAILABLE", "Ssl handshake failed: SSL_ERROR_SSL: WRONG_VERSION_NUMBER", CallFault.NOT_TLS),
        ("UNAVAILABLE", _TO_LISTENERS + "Connection refused (111)", CallFault.CONNECTION_REFUSED),
        ("UNAVAILABLE", "DNS resolution failed for nowhere.invalid:7400", CallFault.UNRESOLVED),
        ("UNAVAILABLE", "address lookup failed for nowhere.invalid:7400", CallFault.UNRESOLVED),
        ("UNAVAILABLE", "the store is away", CallFault.UNAVAILABLE),
        ("UNIMPLEMENTED", "Method not found!", CallFault.NOT_SERVED),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", CallFault.TIMED_OUT),
        ("UNAUTHENTICATED", "the token is unknown", CallFault.ANSWERED),
    ],
)
def test_a_failure_is_known_by_its_code_and_text(code: str, details: str, fault: CallFault) -> None:
    """As gRPC words them."""
    assert fault_of(code, details) is fault


@pytest.mark.parametrize(
    ("details", "fault"),
    [
        ("Deadline Exceeded; last error: CERTIFICATE_VERIFY_FAILED", CallFault.UNTRUSTED),
        ("Deadline Exceeded; last error: Connection refused", CallFault.TIMED_OUT),
    ],
)
def test_tls_explains_a_timeout_and_a_refused_connection_does_not(details: str, fault: CallFault) -> None:
    """A wrong CA is tried again until the call's time is up. A peer that refuses may be one that is just starting."""
    assert fault_of("DEADLINE_EXCEEDED", details) is fault


def test_a_fault_is_said_in_the_words_of_the_program() -> None:
    """Where the program has no words, gRPC's own text stands in, with its code unless the code says nothing more."""
    words = {CallFault.TIMED_OUT: "no answer in time"}
    assert reason_of("DEADLINE_EXCEEDED", "Deadline Exceeded", words) == "no answer in time"
    assert reason_of("UNAVAILABLE", "the store is away", words) == "the store is away"
    assert reason_of("RESOURCE_EXHAUSTED", "too many calls", words) == "resource exhausted: too many calls"


def _failure(channel: grpc.Channel) -> CallFault:
    call = channel.unary_unary("/portway.v1.Discovery/Locate", request_serializer=bytes, response_deserializer=bytes)
    with channel, pytest.raises(grpc.RpcError) as raised:
        call(b"", timeout=10)
    error = cast(grpc.Call, raised.value)
    return fault_of(error.code().name, error.details() or "")


@pytest.mark.shares_sockets
def test_a_real_port_that_refuses_is_recognized() -> None:
    """What this release of gRPC says of it is in the table."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert _failure(grpc.insecure_channel(f"127.0.0.1:{port}", OWN_CONNECTIONS)) is CallFault.CONNECTION_REFUSED


@pytest.mark.shares_sockets
def test_a_real_ca_that_is_not_one_is_recognized() -> None:
    """Found when the connection stands, before the handshake."""
    credentials = grpc.ssl_channel_credentials(b"no certificate")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        assert _failure(grpc.secure_channel(target, credentials, OWN_CONNECTIONS)) is CallFault.CA_UNUSABLE


def test_a_target_holds_the_addresses_of_both_families() -> None:
    """Those of IPv4 in their IPv6 form when there are both; the certificate is to be for the name, or another."""
    endpoint = Endpoint("registry.test", 7400)
    v4, v6 = Address(socket.AF_INET, "192.0.2.1"), Address(socket.AF_INET6, "2001:db8::1")
    name = "grpc.ssl_target_name_override"
    assert target_of(endpoint, [v4, v4]) == ("ipv4:192.0.2.1:7400,192.0.2.1:7400", ((name, "registry.test"),))
    assert target_of(endpoint, [v6]) == ("ipv6:[2001:db8::1]:7400", ((name, "registry.test"),))
    both = "ipv6:[2001:db8::1]:7400,[::ffff:192.0.2.1]:7400"
    assert target_of(endpoint, [v6, v4], "other.test") == (both, ((name, "other.test"),))


@pytest.mark.parametrize("proxy", ["", "http://proxy.test:3128"])
def test_grpc_is_left_what_it_looks_up_itself(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """Addresses; and names when it is to go through a proxy, which may know other names than this machine."""
    for variable in ("grpc_proxy", "http_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("https_proxy", proxy)
    assert looks_up_itself(Endpoint("::1", 7400))
    assert looks_up_itself(Endpoint("registry.test", 7400)) is bool(proxy)


@pytest.mark.shares_sockets
def test_an_address_that_loses_everything_costs_a_moment() -> None:
    """gRPC dials the next address beside it; an IPv4 address in its IPv6 form is dialled as IPv4."""
    v4 = [Address(socket.AF_INET, host) for host in ("127.0.0.2", "127.0.0.1")]
    addresses = [v4[0], Address(socket.AF_INET6, "::1"), v4[1]]
    with socket.create_server(("127.0.0.1", 0)) as answers, socket.socket() as loses, socket.socket() as filler:
        port = answers.getsockname()[1]
        loses.bind(("127.0.0.2", port))
        loses.listen(0)
        filler.connect(loses.getsockname())
        target, _ = target_of(Endpoint("registry.test", port), addresses)
        with grpc.insecure_channel(target, OWN_CONNECTIONS) as channel:
            channel.subscribe(lambda _: None, try_to_connect=True)
            answers.settimeout(20)
            sock, peer = answers.accept()
            sock.close()
            assert peer[0] == "127.0.0.1"


def test_a_failure_can_be_worded_without_loading_grpc() -> None:
    """The client loads gRPC with its first call, and this module before."""
    script = "import sys, portway_runtime.grpc_channels; sys.exit('grpc' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_idle_streams_are_pinged_as_others_are() -> None:
    """The same intervals, and pings while no call is under way."""
    assert KEEPALIVE_WHEN_IDLE[: len(KEEPALIVE)] == KEEPALIVE
    assert dict(KEEPALIVE_WHEN_IDLE)["grpc.keepalive_permit_without_calls"] == 1
