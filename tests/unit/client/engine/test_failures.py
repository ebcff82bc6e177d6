"""portway.engine.failures: WIRE.md's table of failures, and statuses of a registry, as the program's errors;
and how long to wait between tries."""

from itertools import islice

import grpc
import pytest
from portway.engine.failures import (
    FIRST_PAUSE,
    LONGEST_HINT,
    LONGEST_PAUSE,
    Failure,
    hint_seconds,
    pauses,
    read_failure,
    spread_hint,
    status_error,
)
from portway.errors import AuthError, ClockError, Error, InvalidError, QuotaError, RemoteError
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
    asks_elsewhere = does.startswith("asks a registry or another node")
    assert failure.passing == (does in PASSING)
    assert failure.disputable == (does.endswith("gives up when all say so") or asks_elsewhere)
    assert failure.stale_grant == (does.startswith("gets a new one") or asks_elsewhere)
    assert failure.owned_elsewhere == (does == "see §8.5")
    assert failure.wrong_time == does.startswith("asks a registry for the time")
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
        ("TIME", ClockError),
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
    assert failure.passing
    assert not failure.owned_elsewhere
    assert type(failure.error()) is RemoteError


def test_what_a_peer_writes_is_made_fit_to_print() -> None:
    """No escape sequence of a node reaches a terminal or a log."""
    failure = read_failure(Message(code=FailureCode.FAILURE_CODE_QUOTA, message="a\x1b[2Jb\r\nc\u202e é"))
    assert failure == Failure(CODES["QUOTA"], "a\ufffd[2Jb\ufffd\ufffdc\ufffd é")


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


def test_the_first_try_is_soon_and_all_are_spread() -> None:
    """Each pause after the first is between half of and the whole of one that doubles up to a limit."""
    seen = list(islice(pauses(), 12))
    assert 0 <= seen[0] <= FIRST_PAUSE
    expected = FIRST_PAUSE
    for pause in seen[1:]:
        assert expected / 2 <= pause <= expected
        expected = min(expected * 2, LONGEST_PAUSE)
    assert seen[-1] >= LONGEST_PAUSE / 2


def test_two_clients_do_not_wait_alike() -> None:
    """A node that comes back is not met by all at once."""
    assert list(islice(pauses(), 6)) != list(islice(pauses(), 6))


@pytest.mark.parametrize(("milliseconds", "seconds"), [(0, 0), (1, 0.001), (2_500, 2.5), (2**32 - 1, LONGEST_HINT)])
def test_a_hint_is_honoured_within_bounds(milliseconds: int, seconds: float) -> None:
    """A node that is hostile, or broken, keeps nobody for 50 days."""
    assert hint_seconds(milliseconds) == seconds


def test_clients_that_were_told_the_same_do_not_come_together() -> None:
    """Never before the moment that was named; after it by chance, up to half as long again."""
    moments = [spread_hint(10.0) for _ in range(1000)]
    assert all(10 <= moment <= 15 for moment in moments)
    assert max(moments) - min(moments) > 4
