"""Checks beside each other: their order, their time limit, one that fails."""

import asyncio

from portway_registry.doctor.check import Check, Skipped, run_checks
from portway_registry.doctor.finding import Finding, Severity, worst

FINDING = Finding("a", Severity.WARNING, "b", "c", "d", "e")


async def finds() -> list[Finding]:
    return [FINDING]


async def test_outcomes_are_in_the_checks_order() -> None:
    """Whichever is done first; they run at the same time."""
    second_ran = asyncio.Event()

    async def waits() -> list[Finding]:
        await second_ran.wait()
        return []

    async def sets() -> list[Finding]:
        second_ran.set()
        return [FINDING]

    outcomes = await run_checks([Check("first", waits), Check("second", sets)])
    assert [(one.check, one.findings) for one in outcomes] == [("first", ()), ("second", (FINDING,))]
    assert worst(outcomes) is Severity.WARNING


async def test_a_check_that_hangs_is_given_up() -> None:
    """That is a finding, and the others have theirs."""

    async def hangs() -> list[Finding]:
        await asyncio.Event().wait()
        return []

    hung, done = await run_checks([Check("hangs", hangs), Check("done", finds)], limit=0.01)
    (finding,) = hung.findings
    assert (finding.kind, finding.severity, finding.subject) == ("check-unfinished", Severity.ERROR, "hangs")
    assert "after 0.01 s" in finding.what
    assert done.findings == (FINDING,)


async def test_a_check_that_fails_is_a_finding() -> None:
    """With the reason, and nothing else fails."""

    async def fails() -> list[Finding]:
        raise ZeroDivisionError("by zero")

    failed, done = await run_checks([Check("fails", fails), Check("done", finds)])
    assert "ZeroDivisionError: by zero" in failed.findings[0].what
    assert done.findings == (FINDING,)


async def test_a_check_that_cannot_be_done_here_says_why() -> None:
    """It is no finding."""

    async def skips() -> list[Finding]:
        raise Skipped("there is no name")

    (skipped,) = await run_checks([Check("skips", skips)])
    assert (skipped.skipped, skipped.findings) == ("there is no name", ())
    assert worst([skipped]) is None
