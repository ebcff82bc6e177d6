"""What a check has found: what is wrong, why it matters, and the command that mends it."""

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """NOTE: as somebody may want it. WARNING: something works, and will not for long, or not everywhere. ERROR:
    something does not work now, or one more fault ends it."""

    NOTE = 1
    WARNING = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    kind: the same for all findings of this kind, as docs/doctor.md lists them. subject: what it is about, such as a
    node's name. what, why, mend: a sentence each, for people; `mend` names a command or a setting.
    """

    kind: str
    severity: Severity
    subject: str
    what: str
    why: str
    mend: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one check. skipped: why it was not done, "" when it was. took: seconds."""

    check: str
    took: float
    findings: tuple[Finding, ...] = ()
    skipped: str = ""


def worst(outcomes: "list[Outcome]") -> Severity | None:
    """The worst severity of all findings; None without one."""
    return max((one.severity for outcome in outcomes for one in outcome.findings), default=None)
