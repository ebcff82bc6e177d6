"""gRPC: channel options, and what the failure of a call means.

Here: what to look at when a call fails, by one table of gRPC's own texts. Not here: the words, which name each
program's flags. Imports no gRPC: status codes are given by name, so that the client can load this before it.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

# A frozen peer is noticed by unanswered pings within 12 s; keepalive alone needs 40 s and more.
KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
)
# Streams may be silent for long, and are pinged all the same.
KEEPALIVE_WHEN_IDLE: Final = (*KEEPALIVE, ("grpc.keepalive_permit_without_calls", 1))
# A channel that shares connections with one that failed would wait out that one's back-off.
OWN_CONNECTIONS: Final = (("grpc.use_local_subchannel_pool", 1),)


class CallFault(Enum):
    """Why a call failed, as far as gRPC's status and text tell."""

    UNTRUSTED = auto()  # the peer's certificate is not from a CA that this side trusts
    WRONG_NAME = auto()  # it is for another name
    OWN_CERTIFICATE = auto()  # the peer did not accept this side's certificate
    CA_UNUSABLE = auto()  # the CA file that was given cannot be used
    NOT_TLS = auto()  # the peer does not speak TLS there
    TIMED_OUT = auto()
    CONNECTION_REFUSED = auto()
    UNRESOLVED = auto()  # the host name cannot be resolved
    NOT_SERVED = auto()  # the peer knows no such method
    UNAVAILABLE = auto()  # another reason why the peer cannot be reached
    ANSWERED = auto()  # the peer answered with an error of its own


_BY_TEXT: Final = (
    ("CERTIFICATE_VERIFY_FAILED", CallFault.UNTRUSTED),
    ("Hostname Verification", CallFault.WRONG_NAME),
    ("CERTIFICATE_REQUIRED", CallFault.OWN_CERTIFICATE),
    ("UNKNOWN_CA", CallFault.OWN_CERTIFICATE),
    ("BAD_CERTIFICATE", CallFault.OWN_CERTIFICATE),
    ("create security handshaker", CallFault.CA_UNUSABLE),
    ("SSL_ERROR", CallFault.NOT_TLS),
    ("WRONG_VERSION_NUMBER", CallFault.NOT_TLS),
    ("Ssl handshake", CallFault.NOT_TLS),
)
_BY_CODE: Final = {"DEADLINE_EXCEEDED": CallFault.TIMED_OUT}
_BY_LATER_TEXT: Final = (
    ("Connection refused", CallFault.CONNECTION_REFUSED),
    ("address lookup failed", CallFault.UNRESOLVED),
    ("DNS resolution failed", CallFault.UNRESOLVED),
)
_BY_LATER_CODE: Final = {"UNIMPLEMENTED": CallFault.NOT_SERVED, "UNAVAILABLE": CallFault.UNAVAILABLE}


def fault_of(code: str, details: str) -> CallFault:
    """The fault behind a call's status, `code` by name ("UNAVAILABLE") and `details` as gRPC words it."""
    for texts, codes in ((_BY_TEXT, _BY_CODE), (_BY_LATER_TEXT, _BY_LATER_CODE)):
        for text, fault in texts:
            if text in details:
                return fault
        if code in codes:
            return codes[code]
    return CallFault.ANSWERED


def reason_of(code: str, details: str, words: Mapping[CallFault, str]) -> str:
    """The fault in a program's `words`; what they leave out as gRPC's own code and text."""
    fault = fault_of(code, details)
    if fault in words:
        return words[fault]
    return details if fault is CallFault.UNAVAILABLE else f"{code.lower().replace('_', ' ')}: {details}"
