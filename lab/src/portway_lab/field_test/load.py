"""Visitors in every region, all the time, and what they had while something was done to the cluster.

Here: the load, and what it says of each trial. Not here: one visitor's program (visiting.py), the trials (trials.py).
"""

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from portway_lab.cluster.processes import Process, Processes
from portway_lab.field_test.visiting import Visit
from portway_lab.field_test.visitors import Visitor

_PROGRAM: Final = Path(__file__).with_name("visiting.py")
_STARTS_WITHIN: Final = 45.0
_EVERY: Final = 0.15  # seconds between two visits of a region: 20 a second from three
_ENDS_WITHIN: Final = 45.0  # the last visits among it


@dataclass(slots=True)
class Trial:
    """Something that is done to the cluster while it is visited; times of the monotonic clock, in seconds. `losses`:
    when machines died, after which visits that were in progress may fail."""

    name: str
    began: float
    ended: float = 0.0
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What visitors of a region had who came during a trial. Seconds: the slowest visit that got its page, and its
    beginning after that of the trial. `lost`: failed visits that were in progress when a machine died; `failed`: the
    other ones, by what was said, with their beginnings."""

    region: str
    number: int
    slowest: float
    slowest_began: float
    lost: int
    failed: dict[str, list[float]]
    through: Counter[str]  # visits by the address of the node that they entered at
    certificates: int  # how many different ones were seen


class Load:
    """Visits to one page from every region, 20 a second together."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._running: dict[str, tuple[Process, Path]] = {}
        self.trials: list[Trial] = []

    def start(self, visitors: Iterable[tuple[str, Visitor]], url: str, text: str, trusted: Path) -> None:
        """Begin, and return once each region has had a page. Raises ProcessFailed."""
        for region, visitor in visitors:
            report = self._processes.folder / f"visits-{region}.jsonl"
            words: list[str | Path] = [
                *visitor.words(),
                sys.executable,
                _PROGRAM,
                url,
                trusted,
                text,
                str(_EVERY),
                report,
            ]
            self._running[region] = (self._processes.start(f"visits-{region}", words), report)
        for process, _ in self._running.values():
            self._processes.wait_until(process.log.read_text, process, "visited nothing", _STARTS_WITHIN)

    def trial(self, name: str) -> Trial:
        """What is done from now until the next trial, or the end, is judged as one."""
        now = time.monotonic()
        for before in self.trials[-1:]:
            before.ended = now
        self.trials.append(Trial(name, now))
        return self.trials[-1]

    def end(self) -> list[tuple[Trial, list[Outcome]]]:
        """End it, and say what visitors had in each trial."""
        for process, _ in self._running.values():
            process.popen.send_signal(signal.SIGTERM)
        for last in self.trials[-1:]:
            last.ended = time.monotonic()
        for process, _ in self._running.values():
            process.popen.wait(_ENDS_WITHIN)
        self._processes.forget_ended()
        visits = {
            region: [Visit(**json.loads(line)) for line in report.read_text().splitlines()]
            for region, (_, report) in self._running.items()
        }
        return [(trial, [judged(trial, region, visits[region]) for region in visits]) for trial in self.trials]


def judged(trial: Trial, region: str, visits: Sequence[Visit]) -> Outcome:
    """What the visits of a region that began during a trial say of it, and those that it found in progress."""
    seen = [one for one in visits if trial.began <= one.began + one.took and one.began < trial.ended]
    lost = 0
    failed: dict[str, list[float]] = {}
    for one in sorted(seen, key=lambda one: one.began):
        if not one.failure:
            continue
        if any(one.began < loss <= one.began + one.took for loss in trial.losses):
            lost += 1
        elif one.began >= trial.began:
            failed.setdefault(one.failure, []).append(one.began - trial.began)
    served = [one for one in seen if not one.failure]
    slowest = max(served, key=lambda one: one.took, default=Visit(trial.began))
    return Outcome(
        region,
        len(seen),
        slowest.took,
        slowest.began - trial.began,
        lost,
        failed,
        Counter(one.through for one in seen if one.through),
        len({one.certificate for one in seen if one.certificate}),
    )
