"""portway.engine.failures: WIRE.md's table of failures, and statuses of a registry, as the program's errors."""

import grpc
import pytest
from portway.engine.failures import Failure, read_failure, status_error
from portway.errors import AuthError, Error, InvalidError, QuotaError, RemoteError
from portway_proto.v1.lane_pb2 import Failure as Message
from portway_proto.v1.lane_pb2 import FailureCode
from portway_testkit.wire_spec import table

CODES = {name.removeprefix("FAILURE_CODE_"): number for name, number in FailureCode.items()}
# What WIRE.md says the client does, by its first words, and what that means here.
PASSING = ("tries again later", "tries another node", "HELLO anew", "gives up this tunnel, or tries another node")


@pytest.mark.parametrize("row", table("code", "FAILURE_CODE_"), ids=lambda row: row["FAILURE_CODE_"])
def test_the_table_is_followed(row: dict[str, str]) -> None:
    """What WIRE.md calls giving up is for good, what it calls trying elsewhere or later passes."""
    failure = Failure(int(row["code"]), "")
    assert CODES[row["FAILURE_CODE_"]] == failure.code
    does = row["the client"]
    assert failure.passing == (does in PASSING)
    if does == "gives up":
        assert failure.for_good
    assert failure.disputable == does.endswith("gives up when all say so")
    assert failure.stale_grant == does.startswith("gets a new one")
    assert isinstance(failure.error(), Error)
    assert str(failure.error())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("REVOKED", AuthError),
        ("GRANT", AuthError),
        ("QUOTA", QuotaError),
        ("INVALID", InvalidError),
        ("EPOCH", RemoteError),
        ("VERSION", RemoteError),
        ("UNSPECIFIED", RemoteError),
    ],
)
def test_each_code_is_an_error_with_the_node_s_words(name: str, kind: type[Error]) -> None:
    """Or with our own advice, when it gave none."""
    assert type(Failure(CODES[name], "its words").error()) is kind
    assert str(Failure(CODES[name], "its words").error()) == "its words"
    assert (
        ":" in str(Failure(CODES[name], "").error())
        or "?" in str(Failure(CODES[name], "").error())
        or name == "INVALID"
    )


def test_a_code_of_a_later_version_passes_for_unspecified() -> None:
    """Nothing is concluded from it but that it failed."""
    failure = Failure(999, "")
    assert not failure.for_good
    assert not failure.epoch_taken
    assert type(failure.error()) is RemoteError


def test_what_a_peer_writes_is_made_fit_to_print() -> None:
    """No escape sequence of a node reaches a terminal or a log."""
    failure = read_failure(Message(code=FailureCode.FAILURE_CODE_QUOTA, message="a\x1b[2Jb\r\nc\u202e é"))
    assert failure == Failure(CODES["QUOTA"], "a[2Jbc é")


def test_a_hint_is_in_seconds_and_bounded() -> None:
    """What a node may ask for has a limit; nothing asked for is 0."""
    assert read_failure(Message(code=FailureCode.FAILURE_CODE_OVERLOADED)).retry_after == 0
    assert read_failure(Message(retry_after_ms=1_500)).retry_after == 1.5
    assert read_failure(Message(retry_after_ms=86_400_000)).retry_after == 30


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, AuthError),
        (grpc.StatusCode.PERMISSION_DENIED, AuthError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, QuotaError),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidError),
        (grpc.StatusCode.NOT_FOUND, InvalidError),
        (grpc.StatusCode.FAILED_PRECONDITION, RemoteError),
    ],
)
def test_a_status_about_the_client_is_an_error(status: grpc.StatusCode, kind: type[Error]) -> None:
    """Every registry would say the same."""
    assert type(status_error(status.name, "its words")) is kind
    assert str(status_error(status.name, "its words")) == "its words"
    assert str(status_error(status.name, ""))


@pytest.mark.parametrize(
    "status",
    [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN],
)
def test_a_status_about_the_registry_is_none(status: grpc.StatusCode) -> None:
    """The next one is asked."""
    assert status_error(status.name, "down") is None
