"""portway.engine.grpc_registries: reasons, and the life of a grant. The calls are tested against a real server."""

from dataclasses import replace

import pytest
from portway.config import Settings
from portway.engine import grpc_registries as module
from portway.engine.grpc_registries import SHORTEST_LIFE, GrpcRegistries, _grant, _reason
from portway.errors import RemoteError, UnreachableError
from portway_proto.v1.discovery_pb2 import Grant
from portway_testkit.processes.descriptors import no_more_descriptors
from portway_testkit.processes.threads import no_more_threads
from portway_testkit.waiting import PATIENCE

CONNECT = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "


@pytest.mark.parametrize(
    ("name", "details", "expected"),
    [
        ("UNAVAILABLE", CONNECT + "connect: Connection refused (111)", "connection refused"),
        ("UNAVAILABLE", CONNECT + "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", "check PORTWAY_CA"),
        ("UNAVAILABLE", CONNECT + "Hostname Verification Check failed.", "for another name"),
        ("UNAVAILABLE", CONNECT + "Ssl handshake failed: WRONG_VERSION_NUMBER", "does not speak TLS"),
        ("UNAVAILABLE", CONNECT + "Failed to create security handshaker.", "CA file cannot be used"),
        ("UNAVAILABLE", "errors resolving a:1: [address lookup failed for a:1: Domain name not found]", "resolved"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", "no answer within 3 s"),
        ("UNIMPLEMENTED", "Method not found!", "not a registry"),
        ("UNAVAILABLE", "no node has registered yet", "no node has registered yet"),
        ("INTERNAL", "it broke", "internal: it broke"),
    ],
)
def test_reasons_say_what_to_look_at(name: str, details: str, expected: str) -> None:
    """gRPC's own words are for those who know gRPC."""
    assert expected in _reason(name, details)


def test_a_grant_s_life_needs_no_clock() -> None:
    """Due at half its life, as counted from when it came, whatever either side takes the time for."""
    ten_minutes_ago = 1_000_000
    grant = _grant(
        Grant(token="jwt", renew_at_ms=ten_minutes_ago + 1_800_000, expires_at_ms=ten_minutes_ago + 3_600_000)
    )
    assert (grant.token, grant.renew_after) == ("jwt", 1800.0)


def test_a_registry_is_not_hammered_for_grants() -> None:
    """One that is due at once waits a little."""
    assert _grant(Grant(token="jwt", renew_at_ms=5, expires_at_ms=5)).renew_after == SHORTEST_LIFE
    assert _grant(Grant(token="jwt", renew_at_ms=9, expires_at_ms=5)).renew_after == SHORTEST_LIFE


def test_an_answer_without_a_grant_is_an_error() -> None:
    """What answered is something else."""
    with pytest.raises(RemoteError, match="no grant"):
        _grant(Grant())


def test_no_call_is_begun_without_descriptors(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC would end the process; the reason says what to raise."""
    monkeypatch.setattr(module, "CALL_TIMEOUT", PATIENCE)
    registries = GrpcRegistries(replace(settings, registries=("127.0.0.1:1",)))
    with pytest.raises(UnreachableError, match="connection refused"):
        registries.locate(bytes(32))
    with no_more_descriptors(), pytest.raises(UnreachableError, match=r"Too many open files: raise .*ulimit -n"):
        registries.locate(bytes(32))


def test_no_call_is_begun_without_threads(settings: Settings) -> None:
    """gRPC would end the process here too."""
    registries = GrpcRegistries(replace(settings, registries=("127.0.0.1:1",)))
    with no_more_threads(), pytest.raises(UnreachableError, match=r"not asked: can't start new thread: raise "):
        registries.locate(bytes(32))
