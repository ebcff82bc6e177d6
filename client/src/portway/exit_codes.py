"""Exit codes of the command `portway`, by which programs tell errors apart."""

from typing import Final

from portway.errors import (
    AuthError,
    ClockError,
    ConfigError,
    Error,
    InvalidError,
    QuotaError,
    TunnelLostError,
    UnreachableError,
)

USAGE: Final = 2  # argparse's own
OTHER_ERROR: Final = 1
READER_GONE: Final = 141  # 128 + SIGPIPE, as shells have it for a program that the signal ends
INTERRUPTED: Final = 130  # as shells have it; for `forward` a signal is the normal end, and the code is 0
EXIT_CODES: Final[tuple[tuple[type[Error], int, str], ...]] = (
    (InvalidError, USAGE, "wrong usage: an argument that cannot be used"),
    (ConfigError, 3, "no registry or no token is set, or a file cannot be used"),
    (AuthError, 4, "the token is malformed, unknown or revoked"),
    (QuotaError, 5, "the tenant or the token has as many tunnels as its quota allows, or the token asks too often"),
    (UnreachableError, 6, "no registry or no relay node could be reached"),
    (TunnelLostError, 7, "an open tunnel was lost for good"),
    (ClockError, 8, "the clocks of registries and relay nodes are too far apart: their operator has to set them right"),
)


def exit_code(error: Error) -> int:
    """The exit code for this error."""
    return next((code for kind, code, _ in EXIT_CODES if isinstance(error, kind)), OTHER_ERROR)


def documented() -> list[tuple[int, str]]:
    """Each code of `portway forward` but that of an interrupt, and what it means."""
    return [
        (0, "a signal ended the command, and no tunnel had been refused or lost"),
        (OTHER_ERROR, "anything else failed"),
        *((code, text) for _, code, text in EXIT_CODES),
        (READER_GONE, "standard output was closed by its reader before everything was printed"),
    ]
