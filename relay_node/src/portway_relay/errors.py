"""Every error of a relay node.

RelayError
├── ConfigError          a file, flag or variable that cannot be used; says which and what would do
├── JoinError            this node is not let into the cluster, or not any more; says what to do
├── RenewalFailed        there is no new certificate now
├── Refused              what a client asked for and does not get: a code of the lane protocol, and why
│   └── GrantRefused     its grant is not good here
├── PortsUsedUp          no raw TCP port is free
└── TicketInvalid        a ticket that this cluster did not sign, or for something else

Carriers have a tree of their own, portway_carrier.errors, and so has portway_runtime.errors (ListenError,
CertificateError).
"""

import math

from portway_proto.v1.lane_pb2 import Failure, FailureCode


class RelayError(Exception):
    """Base of every error this distribution raises."""


class ConfigError(RelayError):
    """A setting that cannot be used."""


class JoinError(RelayError):
    """The node has no certificate that is good, and gets none."""


class RenewalFailed(RelayError):
    """No registry gave a new certificate; the one there is stays in use."""


class Refused(RelayError):
    """A client's request that is refused; the message is for its user and says what to do.

    `retry_after`: in so many seconds it may be asked again; 0 says nothing.
    """

    def __init__(self, code: "FailureCode.ValueType", message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after

    @property
    def failure(self) -> Failure:
        """As the lane protocol says it."""
        return Failure(code=self.code, message=self.message, retry_after_ms=math.ceil(self.retry_after * 1000))


class GrantRefused(Refused):
    """The grant is malformed, forged, expired, revoked or for another cluster."""


class PortsUsedUp(RelayError):
    """Every port of the range is in use or resting."""


class TicketInvalid(RelayError):
    """A ticket that says nothing here."""
