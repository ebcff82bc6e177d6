"""One call to etcd, retried at other members until it is answered or its time is up.

Here: which failures are retried, and which answers are which errors. Not here: the requests, and watches.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, NoReturn, TypeVar

import grpc
from portway_runtime.backoff import Backoff

from portway_registry.errors import LeaseLost, StoreError, StoreFull, StoreUnavailable
from portway_registry.store.etcd.members import TRY_SECONDS, Member, Members

logger = logging.getLogger(__name__)

R = TypeVar("R")

Metadata = tuple[tuple[str, str], ...]
Call = Callable[[Member, Metadata], Awaitable[R]]

TOTAL_SECONDS = 6.0  # four tries: enough for the election of a leader, or for two dead members and one live
PAUSES = (0.05, 1.0)  # seconds between tries: the first and the longest


class Remedy(Enum):
    """What to do after a failed call."""

    AGAIN = "the member is in trouble: try another"
    TOKEN = "the token is not valid any more: get a new one"  # noqa: S105 - not a password
    NONE = "etcd has decided: asking again changes nothing"


# etcd's text at every member once one of them has reached its quota or has a full disk.
_NO_SPACE = "database space exceeded"
# etcd's texts for a token that it does not accept; it uses the status codes loosely.
_TOKEN_REFUSED = ("invalid auth token", "revision of auth store is old")
# Codes with which etcd refuses a request for a reason of its own.
_REFUSED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
}


def remedy(error: grpc.aio.AioRpcError) -> Remedy:
    """What to do after a call that failed with `error`."""
    details = error.details() or ""
    if token_refused(details):
        return Remedy.TOKEN
    return Remedy.NONE if error.code() in _REFUSED or _NO_SPACE in details else Remedy.AGAIN


def token_refused(details: str) -> bool:
    """Whether etcd's reason is that it does not accept the token any more."""
    return any(text in details for text in _TOKEN_REFUSED)


class Refused(StoreError):
    """etcd refused the request for a reason that only some callers handle; `details` is its text."""

    def __init__(self, details: str) -> None:
        super().__init__(f"etcd refused: {details}")
        self.details = details

    @property
    def compacted(self) -> bool:
        """The requested revision was compacted."""
        return "required revision has been compacted" in self.details

    @property
    def ahead(self) -> bool:
        """The requested revision has not been reached."""
        return "required revision is a future revision" in self.details


@dataclass(frozen=True, slots=True)
class Answer(Generic[R]):
    """etcd's response. `retried`: an earlier try may have been carried out without its response arriving."""

    response: R
    retried: bool


async def ask(members: Members, call: Call[R]) -> Answer[R]:
    """Make `call` at the member in use, then at others, until one answers.

    Raises LeaseLost, StoreFull, Refused or another StoreError when etcd refuses, StoreUnavailable without an answer in
    TOTAL_SECONDS. A try that is cancelled or times out may have been carried out.
    """
    clock = asyncio.get_running_loop().time
    if members.closing.is_set():
        raise StoreUnavailable("the store was closed")
    deadline = clock() + TOTAL_SECONDS
    backoff = Backoff(*PAUSES)
    tries = 0
    met = ""  # by the last try that had its time
    while True:
        member = members.current()
        metadata: Metadata = ()
        try:
            async with asyncio.timeout_at(min(deadline, clock() + TRY_SECONDS)):
                metadata = await members.metadata(member)
                tries += 1
                return Answer(await call(member, metadata), retried=tries > 1)
        except grpc.aio.AioRpcError as error:
            wanted = remedy(error)
            if wanted is Remedy.NONE:
                refuse(error)
            reason = f"{error.code().name}: {error.details()}"
            if wanted is Remedy.TOKEN:
                members.refused(metadata)
            else:
                members.failed(member)
        except (TimeoutError, ConnectionError):
            reason = f"no answer within {TRY_SECONDS} s"
            members.failed(member)
        except asyncio.CancelledError:
            if members.cut_short():
                raise StoreUnavailable("the store was closed while it was asked") from None
            raise
        if not met or clock() < deadline:
            met = f"{member.endpoint} said last: {reason}"
        pause = backoff.next()
        if clock() + pause >= deadline:
            raise StoreUnavailable(f"etcd did not answer within {TOTAL_SECONDS} s; {met}")
        logger.debug("etcd call tried again", extra={"endpoint": member.endpoint, "reason": reason})
        await asyncio.sleep(pause)


def refuse(error: grpc.aio.AioRpcError) -> NoReturn:
    """Raise the StoreError for etcd's refusal."""
    details = error.details() or error.code().name
    if _NO_SPACE in details:
        raise StoreFull(
            "etcd has used up its space: compact and defragment it, raise --quota-backend-bytes, then `etcdctl alarm "
            "disarm`"
        ) from error
    if "requested lease not found" in details:
        raise LeaseLost("the lease is unknown to etcd or has run out: grant a new one") from error
    if "user name is empty" in details:
        raise StoreError("etcd demands a user: set --etcd-user and --etcd-password-file") from error
    if "invalid user ID or password" in details:
        raise StoreError("etcd refused the user or the password: check --etcd-user and --etcd-password-file") from error
    if error.code() is grpc.StatusCode.PERMISSION_DENIED:
        raise StoreError("etcd's user may not do this: grant it read and write below /portway/") from error
    raise Refused(details) from error
