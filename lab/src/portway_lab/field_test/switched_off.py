"""A machine is switched off while its tunnels are visited from everywhere.

Here: the load, the fault, the judgement. Not here: one visitor's program (visiting.py).
"""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from portway_lab.cluster.processes import Process, Processes
from portway_lab.field_test.cluster import TEXT, FieldCluster

_PROGRAM: Final = Path(__file__).with_name("visiting.py")
_STARTS_WITHIN: Final = 45.0
_EVERY: Final = 0.15  # seconds between two visits of a region: 20 a second from three
_BEFORE: Final = 5.0
_AFTER: Final = 40.0  # longer than addresses live in resolvers
_ENDS_WITHIN: Final = 45.0  # after the last visit began


@dataclass(frozen=True, slots=True)
class Visits:
    """What the visitors of a region had. The number, and seconds: the slowest of those that began after the fault, the
    time after it at which the last slow one began. The failures: of visits that had begun before, and after."""

    region: str
    number: int
    slowest: float
    slow_until: float
    failed_in_progress: int
    failed_after: dict[str, list[float]]  # by what was said: when those visits began, in seconds after the fault


def visit_while_switched_off(processes: Processes, cluster: FieldCluster, url: str, machine: str) -> list[Visits]:
    """Visit from every region, switch the machine off, and go on visiting. Raises ProcessFailed."""
    running: dict[str, tuple[Process, Path]] = {}
    for region, visitor in cluster.visitors.items():
        report = processes.folder / f"visits-{region}.json"
        words = [
            sys.executable,
            _PROGRAM,
            url,
            cluster.internet.roots,
            TEXT,
            _EVERY,
            _STARTS_WITHIN + _BEFORE + _AFTER,
            report,
        ]
        running[region] = (processes.start(f"visits-{region}", [*visitor.words(), *map(str, words)]), report)
    for process, _ in running.values():
        processes.wait_until(process.log.read_text, process, "visited nothing", _STARTS_WITHIN)
    cluster.wait(_BEFORE)
    at = time.monotonic()
    cluster.switch_off(machine)
    deadline = at + _STARTS_WITHIN + _AFTER + _ENDS_WITHIN
    for process, _ in running.values():
        process.popen.wait(max(0.0, deadline - time.monotonic()))
    processes.forget_ended()
    return [judged(region, json.loads(report.read_text()), at) for region, (_, report) in running.items()]


def judged(region: str, told: Mapping[str, object], at: float) -> Visits:
    """What a visitor's report says of a fault at a time of the same clock."""
    began, took, failures = told["began"], told["took"], told["failures"]
    assert isinstance(began, list)
    assert isinstance(took, list)
    assert isinstance(failures, dict)
    after = [(start - at, seconds) for start, seconds in zip(began, took, strict=True) if start >= at]
    usual = sorted(seconds for start, seconds in zip(began, took, strict=True) if start < at - 1)
    slow = 2 * usual[len(usual) // 2] + 0.2
    failed = [(began[int(number)], text) for number, text in failures.items()]
    return Visits(
        region,
        len(began),
        max(seconds for _, seconds in after),
        max((start for start, seconds in after if seconds > slow), default=0.0),
        sum(1 for start, _ in failed if start < at),
        {
            kind: sorted(start - at for start, text in failed if start >= at and text == kind)
            for kind in sorted({text for start, text in failed if start >= at})
        },
    )
