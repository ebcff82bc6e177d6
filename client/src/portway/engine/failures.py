"""What failures mean: a registry's status and a node's failure code as errors, and when to try again.

One table each for statuses and failure codes. An entry is the error to raise, and what to do next if the peer did not
say. Pauses between tries grow and are spread by chance; a node's hint when to come back is honoured within bounds, for
the node may be broken or hostile.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from portway_proto.v1.lane_pb2 import Failure as FailureMessage
from portway_proto.v1.lane_pb2 import FailureCode
from portway_runtime.backoff import Backoff, jittered
from portway_runtime.printable import printable_line

from portway.errors import AuthError, ClockError, Error, InvalidError, QuotaError, RemoteError

# Seconds. All clients of a node lose it at the same moment: a tenth of a second spreads thousands of them and is not
# noticed. Afterwards they must not all return at once to a node that is gone, and must soon notice one that is back.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
# Seconds. A node accepts hundreds of clients a second: within this all those of another node have been accepted.
LONGEST_HINT: Final = 30.0

# By the name of grpc.StatusCode. A status that is not here concerns one registry only, and the next one is asked.
_STATUS: Final[Mapping[str, tuple[type[Error], str]]] = {
    "UNAUTHENTICATED": (AuthError, "the registry does not know this token: make one with portway-admin token create"),
    "PERMISSION_DENIED": (AuthError, "this token may not open tunnels: use a client token"),
    "RESOURCE_EXHAUSTED": (QuotaError, "the registry allows no more for this token now: try again later"),
    "INVALID_ARGUMENT": (InvalidError, "the registry did not accept the arguments: check region="),
    "NOT_FOUND": (InvalidError, "the registry knows no such region: check region="),
    "FAILED_PRECONDITION": (RemoteError, "the registry cannot serve this now: try again later"),
}

_FAILURE: Final[Mapping[int, tuple[type[Error], str]]] = {
    FailureCode.FAILURE_CODE_VERSION: (RemoteError, "the node speaks another protocol version: upgrade portway"),
    FailureCode.FAILURE_CODE_PROTOCOL: (RemoteError, "the node did not understand this client: upgrade portway"),
    FailureCode.FAILURE_CODE_GRANT: (
        AuthError,
        "the node does not accept the grant: do registry and node belong together?",
    ),
    FailureCode.FAILURE_CODE_REVOKED: (AuthError, "the token was revoked: ask for a new one"),
    FailureCode.FAILURE_CODE_QUOTA: (QuotaError, "there are as many tunnels as the quota allows: close one"),
    FailureCode.FAILURE_CODE_CLAIM: (RemoteError, "the node does not accept the tunnel's claim: upgrade portway"),
    FailureCode.FAILURE_CODE_EPOCH: (RemoteError, "another client holds the label: open a new tunnel"),
    FailureCode.FAILURE_CODE_PORTS: (RemoteError, "the node has no raw TCP port free: try again later"),
    FailureCode.FAILURE_CODE_SESSION: (RemoteError, "the node does not know the session: try again"),
    FailureCode.FAILURE_CODE_OVERLOADED: (RemoteError, "the node is full: try again later"),
    FailureCode.FAILURE_CODE_SHUTDOWN: (RemoteError, "the node is stopping: try again"),
    FailureCode.FAILURE_CODE_INVALID: (InvalidError, "the node did not accept the tunnel's options"),
    FailureCode.FAILURE_CODE_TIME: (
        ClockError,
        "the node's time is not the registry's: the clocks of node and registry must be right",
    ),
}

# Concerns this node at this moment: another node, or the same one later, may accept.
_PASSING: Final = frozenset(
    {
        FailureCode.FAILURE_CODE_UNSPECIFIED,
        FailureCode.FAILURE_CODE_SESSION,
        FailureCode.FAILURE_CODE_PORTS,
        FailureCode.FAILURE_CODE_OVERLOADED,
        FailureCode.FAILURE_CODE_SHUTDOWN,
    }
)
# One node's refusal of a session may be its own fault: its clock may be wrong, its release too old, it may be hostile.
_DISPUTABLE: Final = frozenset(
    {
        FailureCode.FAILURE_CODE_VERSION,
        FailureCode.FAILURE_CODE_GRANT,
        FailureCode.FAILURE_CODE_REVOKED,
        FailureCode.FAILURE_CODE_TIME,
    }
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a node refused or ended something. `retry_after`: its hint in seconds, bounded; 0 if it gave none."""

    code: int
    message: str
    retry_after: float = 0.0

    @property
    def passing(self) -> bool:
        """Whether trying again later can help; unknown codes count as UNSPECIFIED."""
        return self.code in _PASSING or self.code not in FailureCode.values()

    @property
    def disputable(self) -> bool:
        """Whether another node may accept the session, though this one never will."""
        return self.code in _DISPUTABLE

    @property
    def stale_grant(self) -> bool:
        """Whether a fresh grant may help, or the registry that is asked for one says why not."""
        return self.code in (FailureCode.FAILURE_CODE_GRANT, FailureCode.FAILURE_CODE_REVOKED)

    @property
    def revoked(self) -> bool:
        """Whether the token was revoked, as this node says."""
        return self.code == FailureCode.FAILURE_CODE_REVOKED

    @property
    def over_quota(self) -> bool:
        """Whether the tenant or the token has as many tunnels as its quota allows, as this node says."""
        return self.code == FailureCode.FAILURE_CODE_QUOTA

    @property
    def owned_elsewhere(self) -> bool:
        """Whether a claim of higher rank owns the label, as this node says."""
        return self.code == FailureCode.FAILURE_CODE_EPOCH

    @property
    def wrong_time(self) -> bool:
        """Whether what was signed is not of now."""
        return self.code == FailureCode.FAILURE_CODE_TIME

    @property
    def session_unknown(self) -> bool:
        """Whether only a new session can help."""
        return self.code == FailureCode.FAILURE_CODE_SESSION

    @property
    def text(self) -> str:
        """The node's own words; without any, what to do next."""
        return self.message or self._meaning[1]

    def error(self) -> Error:
        """The error to raise in the program."""
        return self._meaning[0](self.text)

    @property
    def _meaning(self) -> tuple[type[Error], str]:
        return _FAILURE.get(self.code, (RemoteError, "the node failed: try again"))


def read_failure(message: FailureMessage) -> Failure:
    """The failure that a frame carries. The message is the peer's, and may be shown as it is returned."""
    return Failure(message.code, printable_line(message.message), hint_seconds(message.retry_after_ms))


def status_error(name: str, details: str) -> Error | None:
    """The error that a registry's status means; None if it concerns that registry only, so that the next is asked."""
    meaning = _STATUS.get(name)
    if meaning is None:
        return None
    kind, advice = meaning
    return kind(details or advice)


def pauses() -> Iterator[float]:
    """Seconds to wait before each try, without end: 0 to 0.1, then half to the whole of 0.1, doubling up to 5."""
    yield jittered(FIRST_PAUSE, low=0.0)
    yield from Backoff(FIRST_PAUSE, LONGEST_PAUSE)


def hint_seconds(milliseconds: int) -> float:
    """A node's hint in seconds, LONGEST_HINT at most."""
    return min(milliseconds / 1000, LONGEST_HINT)


def spread_hint(seconds: float) -> float:
    """A hint, lengthened by up to half of it by chance: other clients may have been given the same."""
    return jittered(seconds, 1.0, 1.5)
