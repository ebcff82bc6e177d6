"""gRPC: channel options, what the failure of a call means, and silence on stderr.

Here: the cause of a failed call, by one table of gRPC's own texts. Not here: the wording for people, which names each
program's flags; targets (grpc_targets.py). This module does not import gRPC, so that the client can import it before;
status codes are given by name.
"""

import os
from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

# A frozen peer is noticed by unanswered pings within 12 s; keepalive alone needs 40 s and more.
KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
)
# For streams, which may carry no message for long.
KEEPALIVE_WHEN_IDLE: Final = (*KEEPALIVE, ("grpc.keepalive_permit_without_calls", 1))
# A channel that shares connections with one that failed would wait out that one's back-off.
OWN_CONNECTIONS: Final = (("grpc.use_local_subchannel_pool", 1),)
# For every channel: gRPC itself heeds some of the variables that name a proxy, for some of a process's connections.
NO_PROXY_OF_ITS_OWN: Final = (("grpc.enable_http_proxy", 0),)
# In the trailing metadata of a refusal that holds at every registry: an operator removed the node, or its name was
# given to another one after its certificate was issued.
NODE_IS_OUT: Final = ("portway-node", "out")
# In that of a registry which was reached, and whose store was not, or has no room for what was to be written.
STORE_IS_AWAY: Final = ("portway-store", "away")
STORE_IS_FULL: Final = ("portway-store", "full")

_VERBOSITY: Final = "GRPC_VERBOSITY"


def silence_grpc() -> None:
    """Keep gRPC's core from writing to stderr, past any log: a line of 200 bytes for each handshake that a peer breaks
    off. The errors of calls say more.

    For commands, before gRPC is imported. A variable GRPC_VERBOSITY of the environment stays as it is.
    """
    os.environ.setdefault(_VERBOSITY, "NONE")


class CallFault(Enum):
    """Why a call failed, as derived from gRPC's status and text."""

    UNTRUSTED = auto()  # the peer's certificate is not from a CA that this side trusts
    WRONG_NAME = auto()  # the peer's certificate is for another name
    OWN_CERTIFICATE = auto()  # the peer rejected this side's certificate
    CA_UNUSABLE = auto()  # the CA file of this side cannot be used
    NOBODY_BEHIND = auto()  # a node is there, and no registry answers that it could pass the connection on to
    UNKNOWN_NAME = auto()  # the peer serves nothing of this name
    NOT_TLS = auto()  # the peer does not speak TLS on that port
    TIMED_OUT = auto()
    CONNECTION_REFUSED = auto()
    UNRESOLVED = auto()  # the host name cannot be resolved
    NOT_SERVED = auto()  # the peer does not have the method
    UNAVAILABLE = auto()  # another reason why the peer cannot be reached
    ANSWERED = auto()  # the peer answered with an error of its own


_BY_TEXT: Final = (
    ("CERTIFICATE_VERIFY_FAILED", CallFault.UNTRUSTED),
    ("Hostname Verification", CallFault.WRONG_NAME),
    ("CERTIFICATE_REQUIRED", CallFault.OWN_CERTIFICATE),
    ("UNKNOWN_CA", CallFault.OWN_CERTIFICATE),
    ("BAD_CERTIFICATE", CallFault.OWN_CERTIFICATE),
    ("create security handshaker", CallFault.CA_UNUSABLE),
    ("ALERT_INTERNAL_ERROR", CallFault.NOBODY_BEHIND),
    ("UNRECOGNIZED_NAME", CallFault.UNKNOWN_NAME),
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
    """The fault in a program's `words`. A fault that is not in them is given by gRPC's own code and text."""
    fault = fault_of(code, details)
    if fault in words:
        return words[fault]
    return details if fault is CallFault.UNAVAILABLE else f"{code.lower().replace('_', ' ')}: {details}"
