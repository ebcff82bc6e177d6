"""Every error of this distribution.

ServerError
├── SetupRefused   what was asked for, or what was found on this machine, cannot work; says what would
├── CannotWrite    a file or a folder that cannot be written
├── CannotJoin     a cluster that cannot be joined, or that does not let this machine join
├── CallFailed     a call to this machine's own registry that failed
│   └── CallDenied     the registry does not take the token
└── ChildEnded     the registry or the relay ended by itself, with the reason
"""


class ServerError(Exception):
    """Base of every error this distribution raises."""


class SetupRefused(ServerError):
    """What was asked for, or what was found on this machine, cannot work."""


class CannotWrite(ServerError):
    """A file or a folder that cannot be written."""


class CannotJoin(ServerError):
    """A cluster that cannot be joined, or that does not let this machine join."""


class CallFailed(ServerError):
    """A call to this machine's own registry that failed."""


class CallDenied(CallFailed):
    """The registry does not take the token."""


class ChildEnded(ServerError):
    """A program that `up` runs ended by itself. `program`: its name. `code`: its exit code, negative for a signal."""

    def __init__(self, program: str, code: int, reason: str) -> None:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        super().__init__(f"{program} {how}{f': {reason}' if reason else ''}")
        self.program = program
        self.code = code
