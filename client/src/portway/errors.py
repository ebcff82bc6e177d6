"""Every error a program that forwards ports can see. Each message says what to do next.

Error
├── InvalidError        an argument that cannot be used
├── ConfigError         no registry or no token was named, or a file that is named cannot be used
├── AuthError           the token is malformed, unknown or revoked
├── QuotaError          the token has as many tunnels as it may have
├── UnreachableError    no registry or no relay node could be reached; `attempts` says what each one did
├── RemoteError         the other end answered what it should not have
└── TunnelLostError     a tunnel was open and is gone for good; `reason` says why

Which status or failure code becomes which error is decided in engine/failures.py.
"""

from dataclasses import dataclass


class Error(Exception):
    """Base of every error this package raises."""


class InvalidError(Error):
    """An argument that cannot be used."""


class ConfigError(Error):
    """A setting that is missing or cannot be used."""


class AuthError(Error):
    """The token was not accepted."""


class QuotaError(Error):
    """The token's quota is used up."""


class RemoteError(Error):
    """A registry or relay node failed, or answered what it should not have."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One registry or relay node that was tried, and why it did not do."""

    name: str
    address: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.address}): {self.reason}" if self.name else f"{self.address}: {self.reason}"


class UnreachableError(Error):
    """Nobody that could open the tunnel was reached in time."""

    def __init__(self, message: str, attempts: tuple[Attempt, ...] = ()) -> None:
        self.attempts = attempts
        super().__init__("\n  ".join((message, *map(str, attempts))))


class TunnelLostError(Error):
    """A tunnel that was open is gone for good: re-attaching cannot bring it back."""

    def __init__(self, url: str, reason: Error) -> None:
        super().__init__(f"the tunnel to {url} is gone for good: {reason}")
        self.url = url
        self.reason = reason
