"""The one table of which gRPC status an exception becomes, and the text that goes to the caller with it."""

import logging
import secrets
from typing import Final

from grpc import StatusCode
from portway_proto.records import cut_printable
from portway_runtime.grpc_channels import NODE_IS_OUT, STORE_IS_AWAY, STORE_IS_FULL

from portway_registry import errors

logger = logging.getLogger(__name__)

# Bytes. A text that repeats a field of the request must fit into the trailers of the answer, which have 8 KiB.
_LONGEST_TEXT: Final = 1_000

# The first class that the exception is an instance of counts.
_STATUS: Final[tuple[tuple[type[Exception], StatusCode], ...]] = (
    (errors.NotAuthenticated, StatusCode.UNAUTHENTICATED),
    (errors.NotAllowed, StatusCode.PERMISSION_DENIED),
    (errors.NotServed, StatusCode.UNIMPLEMENTED),
    (errors.InvalidRequest, StatusCode.INVALID_ARGUMENT),
    (errors.NotFound, StatusCode.NOT_FOUND),
    (errors.NotYet, StatusCode.FAILED_PRECONDITION),
    (errors.NoGrantKey, StatusCode.UNAVAILABLE),
    (errors.NoCandidate, StatusCode.UNAVAILABLE),
    (errors.Busy, StatusCode.UNAVAILABLE),
    (errors.Exhausted, StatusCode.RESOURCE_EXHAUSTED),
    (errors.MessageLate, StatusCode.DEADLINE_EXCEEDED),
    (errors.QuotaFull, StatusCode.RESOURCE_EXHAUSTED),
    (errors.FellSilent, StatusCode.DEADLINE_EXCEEDED),
    (errors.NodeRemoved, StatusCode.PERMISSION_DENIED),
    (errors.Replaced, StatusCode.ABORTED),
    (errors.FellBehind, StatusCode.RESOURCE_EXHAUSTED),
)

_NODE_IS_OUT: Final = (errors.NodeRemoved, errors.CertificateSuperseded)


def trailers_of(error: Exception) -> tuple[tuple[str, str], ...]:
    """The trailing metadata of an answer with the status of this exception: what programs act on."""
    if isinstance(error, errors.StoreUnavailable):
        return (STORE_IS_FULL if isinstance(error, errors.StoreFull) else STORE_IS_AWAY,)
    return (NODE_IS_OUT,) if isinstance(error, _NODE_IS_OUT) else ()


def status_of(error: Exception) -> tuple[StatusCode, str]:
    """The status and the text for an exception.

    An internal failure is logged here under a random number, and the text names only this number.
    """
    if isinstance(error, errors.CallError):
        for kind, code in _STATUS:
            if isinstance(error, kind):
                return code, cut_printable(str(error), _LONGEST_TEXT)
    if isinstance(error, errors.StoreFull):
        logger.warning("call failed: the store is full", extra={"reason": str(error)})
        return StatusCode.UNAVAILABLE, "the registry's store is full: an operator has to make room (its log says where)"
    if isinstance(error, errors.StoreUnavailable):
        logger.warning("call failed: the store cannot be reached", extra={"reason": str(error)})
        return StatusCode.UNAVAILABLE, "the registry cannot reach its store now: try again in a few seconds"
    number = secrets.token_hex(4)
    logger.error("call failed: %s", number, exc_info=error)
    return StatusCode.INTERNAL, f"the registry failed; its log says why under {number}"
