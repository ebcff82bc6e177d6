"""gRPC's failures, by what they mean."""

import socket
import subprocess
import sys
from typing import cast

import grpc
import pytest
from portway_runtime.grpc_channels import (
    KEEPALIVE,
    KEEPALIVE_WHEN_IDLE,
    OWN_CONNECTIONS,
    CallFault,
    fault_of,
    reason_of,
)
from portway_testkit.processes.ports import free_port

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
        ("UNAVAILABLE", "SSL_ERROR_SSL: error:1: TLSV1_ALERT_INTERNAL_ERROR: Invalid", CallFault.NOBODY_BEHIND),
        ("UNAVAILABLE", "SSL_ERROR_SSL: error:1: TLSV1_ALERT_UNRECOGNIZED_NAME: Invalid", CallFault.UNKNOWN_NAME),
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
    assert _failure(grpc.insecure_channel(f"127.0.0.1:{free_port()}", OWN_CONNECTIONS)) is CallFault.CONNECTION_REFUSED


@pytest.mark.shares_sockets
def test_a_real_ca_that_is_not_one_is_recognized() -> None:
    """Found when the connection stands, before the handshake."""
    credentials = grpc.ssl_channel_credentials(b"no certificate")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        assert _failure(grpc.secure_channel(target, credentials, OWN_CONNECTIONS)) is CallFault.CA_UNUSABLE


def test_a_failure_can_be_worded_without_loading_grpc() -> None:
    """The client loads gRPC with its first call, and this module before."""
    script = "import sys, portway_runtime.grpc_channels; sys.exit('grpc' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_idle_streams_are_pinged_as_others_are() -> None:
    """The same intervals, and pings while no call is under way."""
    assert KEEPALIVE_WHEN_IDLE[: len(KEEPALIVE)] == KEEPALIVE
    assert dict(KEEPALIVE_WHEN_IDLE)["grpc.keepalive_permit_without_calls"] == 1
