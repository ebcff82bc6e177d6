"""What a registry's status and a node's failure code mean to the program: one table each.

An entry is the error to raise and what to do next when the peer itself did not say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from portway_proto.v1.lane_pb2 import Failure as FailureMessage
from portway_proto.v1.lane_pb2 import FailureCode

from portway.engine.retry import hinted
from portway.errors import AuthError, Error, InvalidError, QuotaError, RemoteError

# By grpc.StatusCode's name. What is not here says something of one registry, and the next one is asked.
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
    FailureCode.FAILURE_CODE_QUOTA: (QuotaError, "the token has as many tunnels as it may have: close one"),
    FailureCode.FAILURE_CODE_PROOF: (RemoteError, "the node does not accept the label's proof: upgrade portway"),
    FailureCode.FAILURE_CODE_EPOCH: (RemoteError, "another client holds the label: open a new tunnel"),
    FailureCode.FAILURE_CODE_PORTS: (RemoteError, "the node has no raw TCP port free: try again later"),
    FailureCode.FAILURE_CODE_SESSION: (RemoteError, "the node does not know the session: try again"),
    FailureCode.FAILURE_CODE_OVERLOADED: (RemoteError, "the node is full: try again later"),
    FailureCode.FAILURE_CODE_SHUTDOWN: (RemoteError, "the node is stopping: try again"),
    FailureCode.FAILURE_CODE_INVALID: (InvalidError, "the node did not accept the tunnel's options"),
}

# About this node and this moment: another node, or the same one later, may do better.
_PASSING: Final = frozenset(
    {
        FailureCode.FAILURE_CODE_UNSPECIFIED,
        FailureCode.FAILURE_CODE_SESSION,
        FailureCode.FAILURE_CODE_PORTS,
        FailureCode.FAILURE_CODE_OVERLOADED,
        FailureCode.FAILURE_CODE_SHUTDOWN,
    }
)
# About the client, whichever node it asks.
_FOR_GOOD: Final = frozenset({FailureCode.FAILURE_CODE_REVOKED, FailureCode.FAILURE_CODE_QUOTA})
# What one node holds against a client may be a fault of its own: a clock that is wrong, a release that is too old.
_DISPUTABLE: Final = frozenset({FailureCode.FAILURE_CODE_VERSION, FailureCode.FAILURE_CODE_GRANT})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a node refused or ended something. `retry_after`: seconds that it asks for before the next try, within
    bounds; 0 when it does not."""

    code: int
    message: str
    retry_after: float = 0.0

    @property
    def passing(self) -> bool:
        """Whether trying again later can help."""
        return self.code in _PASSING

    @property
    def for_good(self) -> bool:
        """Whether no other node will answer otherwise."""
        return self.code in _FOR_GOOD

    @property
    def disputable(self) -> bool:
        """Whether another node may answer otherwise, though this one will not."""
        return self.code in _DISPUTABLE

    @property
    def stale_grant(self) -> bool:
        """Whether a fresh grant may help."""
        return self.code == FailureCode.FAILURE_CODE_GRANT

    @property
    def epoch_taken(self) -> bool:
        """Whether an equal or higher epoch holds the label."""
        return self.code == FailureCode.FAILURE_CODE_EPOCH

    @property
    def session_unknown(self) -> bool:
        """Whether only a new session can help."""
        return self.code == FailureCode.FAILURE_CODE_SESSION

    @property
    def text(self) -> str:
        """The node's own words, else ours."""
        return self.message or self._known[1]

    def error(self) -> Error:
        """What the program gets to see."""
        return self._known[0](self.text)

    @property
    def _known(self) -> tuple[type[Error], str]:
        return _FAILURE.get(self.code, (RemoteError, "the node failed: try again"))


def read_failure(message: FailureMessage) -> Failure:
    """The failure a frame carries; the message is the peer's, so it is made fit to print."""
    text = "".join(character for character in message.message if character.isprintable())
    return Failure(message.code, text, hinted(message.retry_after_ms))


def status_error(name: str, details: str) -> Error | None:
    """The error that a registry's status means; None when it is that registry's own trouble and the next is asked."""
    known = _STATUS.get(name)
    if known is None:
        return None
    kind, advice = known
    return kind(details or advice)
