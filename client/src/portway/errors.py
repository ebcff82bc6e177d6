"""Every error that this package raises. Each message says what to do next.

Error
├── InvalidError        an argument that cannot be used
├── ConfigError         no registry or no token is set, or a file that is named cannot be used
├── AuthError           the token is malformed, unknown or revoked
├── QuotaError          the tenant or the token has as many tunnels as its quota allows
├── UnreachableError    no registry or no relay node could be reached; `attempts` gives the reason of each
├── RemoteError         a registry or relay node failed, or broke the protocol; or Portway's own thread cannot run
│   └── ClockError      the clocks of registries and relay nodes are too far apart
├── TakenOverError      another program that uses the same key file has the tunnel's URL
└── TunnelLostError     an open tunnel is lost for good; `reason` is the error that ended it

The tables from gRPC status and node's failure code to error are in engine/failures.py.
"""

from dataclasses import dataclass


class Error(Exception):
    """Base of every error this package raises."""


class InvalidError(Error):
    """An argument that cannot be used."""


class ConfigError(Error):
    """A setting that is missing or cannot be used."""


class AuthError(Error):
    """The token is malformed, unknown or revoked."""


class QuotaError(Error):
    """The quota of the tenant, or of the token, is used up."""


class RemoteError(Error):
    """A registry or relay node failed, or broke the protocol; or Portway's own thread cannot run in this process."""


class ClockError(RemoteError):
    """The clocks of registries and relay nodes are so far apart that neither can judge what the other has signed."""


class TakenOverError(Error):
    """Another program that uses the same key file has the tunnel's URL."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One registry or relay node that was tried, and why it was not used. `name` is "" for a registry."""

    name: str
    address: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.address}): {self.reason}" if self.name else f"{self.address}: {self.reason}"


class UnreachableError(Error):
    """No registry or relay node that could open the tunnel was reached in time. `attempts`: in the order tried.
    `lasting`: trying again does not help, a setting has to be changed first. `what`: the message without them."""

    def __init__(self, message: str, attempts: tuple[Attempt, ...] = (), *, lasting: bool = False) -> None:
        self.what = message
        self.attempts = attempts
        self.lasting = lasting
        super().__init__("\n  ".join((message, *map(str, attempts))))


class TunnelLostError(Error):
    """An open tunnel is lost for good: attaching again cannot restore it."""

    def __init__(self, url: str, reason: Error) -> None:
        super().__init__(f"the tunnel to {url} is gone for good: {reason}")
        self.url = url
        self.reason = reason
