"""Every error of a relay node.

RelayError
├── ConfigError          settings that cannot work, alone or together; says which, and what would do
├── JoinError            the cluster does not admit this node, or no longer; says what to do
│   └── RegistryAway     no registry was reached for so long
├── NodeRemoved          the cluster admits this node no more
├── RenewalFailed        no registry gave a new certificate now
├── Refused              a client's request is refused: a code of the lane protocol, and why
│   └── GrantRefused     its grant is not accepted
├── PortsUsedUp          no raw TCP port is free
└── TicketInvalid        not a ticket that a node of this cluster has signed for this region

Carriers have a tree of their own in portway_carrier.errors; SettingsError, ListenError and CertificateError are in
portway_runtime.errors.
"""

import math

from portway_proto.v1.lane_pb2 import FAILURE_CODE_QUOTA, Failure, FailureCode
from portway_runtime.grpc_channels import CallFault


class RelayError(Exception):
    """Base of every error this distribution raises."""


class ConfigError(RelayError):
    """Settings that cannot work."""


class JoinError(RelayError):
    """The node has no valid certificate, and gets none."""


class RegistryAway(JoinError):
    """No registry was reached for as long as was to be tried. `fault`: why not, of the last call."""

    def __init__(self, fault: CallFault, reason: str) -> None:
        super().__init__(f"no registry was reached: {reason}")
        self.fault = fault
        self.reason = reason


class NodeRemoved(RelayError):
    """A registry said that an operator removed this node, or that its name was given to another one."""


class RenewalFailed(RelayError):
    """No registry gave a new certificate; the current one stays in use."""


class Refused(RelayError):
    """A client's request is refused; the message is for its user and says what to do.

    retry_after: seconds after which the request may be tried again; 0 when nothing is known.
    claim: the one that owns the label, with EPOCH.
    """

    def __init__(
        self, code: "FailureCode.ValueType", message: str, *, retry_after: float = 0.0, claim: bytes = b""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.claim = claim

    @property
    def failure(self) -> Failure:
        """The message of the lane protocol."""
        return Failure(code=self.code, message=self.message, retry_after_ms=math.ceil(self.retry_after * 1000))


class GrantRefused(Refused):
    """The grant is malformed, forged, expired, revoked or for another cluster."""


class PortsUsedUp(RelayError):
    """Every port of the range is in use or resting."""


class TicketInvalid(RelayError):
    """What was shown is not a ticket that a node of this cluster has signed for this region; says why."""


def quota_full(whose: str, max_tunnels: int) -> Refused:
    """The refusal of one tunnel more than `whose` quota allows, from this node or from a registry."""
    return Refused(
        FAILURE_CODE_QUOTA,
        f"{whose} may have {max_tunnels} tunnels open at once and has them: close one, or ask an admin for a larger "
        "quota",
    )
