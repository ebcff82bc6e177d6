"""Checks run beside each other, each within a time limit; one that fails is a finding, and ends no other."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from portway_runtime.clocks import Monotonic, monotonic

from portway_registry.doctor.finding import Finding, Outcome, Severity

logger = logging.getLogger(__name__)

# Seconds. What a check asks for is asked for side by side, with a shorter limit each.
CHECK_LIMIT: Final = 12.0


class Skipped(Exception):
    """A check cannot be done here; the text says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """A part of the cluster to look at. `look` gathers and judges; it raises Skipped, and may raise anything else,
    which is then a finding."""

    name: str
    look: Callable[[], Awaitable[list[Finding]]]


async def run_checks(
    checks: Iterable[Check], *, limit: float = CHECK_LIMIT, clock: Monotonic = monotonic
) -> list[Outcome]:
    """What became of each, in their order, after `limit` seconds at the latest."""
    return list(await asyncio.gather(*(_run(check, limit, clock) for check in checks)))


async def _run(check: Check, limit: float, clock: Monotonic) -> Outcome:
    began = clock()
    try:
        async with asyncio.timeout(limit):
            findings = await check.look()
    except Skipped as skipped:
        return Outcome(check.name, clock() - began, skipped=str(skipped))
    except TimeoutError:
        findings = [_unfinished(check.name, f"was not done after {limit:g} s")]
    except Exception as error:
        logger.debug("a check failed", exc_info=True)
        findings = [_unfinished(check.name, f"ended with {type(error).__name__}: {error}")]
    return Outcome(check.name, clock() - began, tuple(findings))


def _unfinished(name: str, what: str) -> Finding:
    return Finding(
        "check-unfinished",
        Severity.ERROR,
        name,
        f"The check `{name}` {what}.",
        "What it looks at is not known.",
        "Repeat `portway-admin doctor` near the registry; with `--json` its output is for a report.",
    )
