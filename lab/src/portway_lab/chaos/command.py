"""Kill, drain, pause and cut off parts of a mesh at random while visitors check that they get their own tunnel's bytes.

One node of the mesh is hostile: while one of the faults is on, it says and does whatever a thief of its key could. It
may sever what is homed at itself, and nothing else.

Which fault happens when depends on --seed and --minutes only; how the parts react does not. At the end every fault is
undone. While the hostile node alone does harm every visit of a tunnel homed elsewhere must be served. Then it is
checked that every tunnel is served at every node, that clients have come back to their nearest ones, that registries
and nodes agree, and that nothing remains of closed tunnels. Needs root (network namespaces) and etcd.
"""

# Here: the run from beginning to end, and its output.

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from portway_testkit.clusters.etcd import EtcdMissing, find_etcd

from portway_lab.chaos import consistency
from portway_lab.chaos.plan import GUESTS, HOSTILE, NODES, REGIONS, Fault, Kind, counts, make_plan
from portway_lab.chaos.stage import RAW_REGION, Stage
from portway_lab.chaos.visitors import Visitors
from portway_lab.cluster.delay_network import why_not
from portway_lab.cluster.processes import Processes, ProcessFailed
from portway_lab.cluster.visits import WrongBytes

_SUPERVISE_EVERY = 0.2  # seconds
_QUICK = 5.0  # seconds; a check that takes longer to succeed is reported with what it waited for
_SHOWN = 600  # characters of that
_LIES_ALONE = 8.0  # seconds for which the hostile node lies and nothing else is wrong
_TURNS_WITHIN = 15.0  # it may have been started just now
_CANNOT_RUN = 2


class _Ended(BaseException):
    """A signal ended the run. Not an Exception, so that no handler takes it for a failure."""


class _Log:
    """Prints lines with the seconds since `begin()`. Thread-safe."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lock = threading.Lock()

    def begin(self) -> None:
        self._began = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def __call__(self, text: str) -> None:
        with self._lock:
            print(f"{self.seconds():6.1f} s  {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    plan = make_plan(seed, options.minutes * 60)
    print(f"seed {seed}, {options.minutes:g} minutes, {len(plan)} faults:", flush=True)
    for fault in plan:
        print(f"  {fault}", flush=True)
    print(f"of each: {_listed(counts(plan))}", flush=True)
    if options.plan:
        return 0
    if reason := why_not():
        print(f"scripts/chaos cannot run here: {reason}", file=sys.stderr)
        return _CANNOT_RUN
    try:
        etcd = find_etcd()
    except EtcdMissing as missing:
        print(f"scripts/chaos cannot run here: {missing}", file=sys.stderr)
        return _CANNOT_RUN
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    folder = Path(tempfile.mkdtemp(prefix="pw-chaos-"))
    wrong: list[str] = []
    try:
        with Processes(folder) as processes:
            wrong = _run(plan, seed, processes, etcd)
    except ProcessFailed as failure:
        wrong = [f"a part did not start: {failure}"]
    except _Ended:
        print("ended by a signal: nothing was checked")
        return 1
    finally:
        # After a run that found something the logs are kept, but not etcd's data, which is large.
        shutil.rmtree(folder / "etcd" if wrong else folder, ignore_errors=True)
    for line in wrong:
        print(f"WRONG: {line}", flush=True)
    if wrong:
        print(f"all logs: {folder}\nagain: scripts/chaos --seed {seed} --minutes {options.minutes:g}")
        return 1
    print("nothing is wrong")
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    """While processes are being ended, a second signal must not interrupt it."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise _Ended


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="of the plan; by default a random one, which is printed")
    parser.add_argument("--minutes", type=float, default=3.0, help="duration of the faults (3); the checks come after")
    parser.add_argument("--plan", action="store_true", help="print the plan and end")
    return parser.parse_args(arguments)


def _run(plan: tuple[Fault, ...], seed: int, processes: Processes, etcd: Path) -> list[str]:
    """Everything that is wrong at the end; empty if nothing is."""
    say = _Log()
    stage = Stage(processes, etcd, say)
    try:
        if wrong := consistency.settle(lambda: consistency.not_served(stage)):
            return [f"before any fault: {line}" for line in wrong]
        say.begin()
        with Visitors(stage, seed, say) as visitors:
            _play(plan, stage, say)
        say(f"every fault is undone; done: {_listed(counts(plan))}")
        say(f"visits: {dict(visitors.outcomes.most_common())}")
        say(f"guests: {dict(stage.guests.outcomes.most_common())}")
        gaps = ", ".join(f"{name} {gap:.1f} s" for name, gap in visitors.longest_gap.items())
        say(f"raw addresses that were lost by their clients' logs: {', '.join(stage.ledger.without_port()) or 'none'}")
        say(f"longest time between two successful visits: {gaps}")
        wrong = _check(stage, say)
        say(f"told by the hostile node: {_listed(stage.hostile.told())}")
        return [*visitors.violations, *wrong, *stage.unexpected, *stage.guests.unexpected]
    finally:
        stage.close()


def _play(plan: tuple[Fault, ...], stage: Stage, say: _Log) -> None:
    steps = sorted(
        [(fault.at, 1, fault) for fault in plan] + [(fault.until, 0, fault) for fault in plan],
        key=lambda step: step[:2],
    )
    for at, begins, fault in steps:
        while say.seconds() < at:
            stage.supervise()
            time.sleep(min(_SUPERVISE_EVERY, max(0.0, at - say.seconds())))
        target = " – ".join(filter(None, (fault.part, fault.other)))
        say(f"{'' if begins else 'end of '}{fault.kind} {target}")
        if begins:
            stage.begin(fault)
        else:
            stage.end(fault)


def _check(stage: Stage, say: _Log) -> list[str]:
    """The checks in sequence; each may take time to succeed, while parts that ended are started again."""
    try:
        severed = _lies_alone(stage, say)
        wrong = _settle(stage, lambda: consistency.not_served(stage), say)
        say(f"every tunnel serves at every node: {'no' if wrong else 'yes'}")
        away = _settle(stage, lambda: consistency.not_at_nearest(stage), say)
        say(f"every client is at its nearest node: {'no' if away else 'yes'}")
        differ = _settle(stage, lambda: consistency.disagreements(stage), say)
        say(f"registries and nodes agree, nothing remains: {'no' if differ else 'yes'}")
        new = _newcomer(stage, say)
        say(f"a new tunnel serves at every node: {'no' if new else 'yes'}")
        stage.end_clients()
        left = _settle(stage, lambda: consistency.disagreements(stage, closed=True), say)
        say(f"nothing of the tunnels remains once their clients have ended: {'no' if left else 'yes'}")
        answered = consistency.still_answered(stage)
        say(f"no closed tunnel is answered for: {'no' if answered else 'yes'}")
    except WrongBytes as error:
        return [str(error)]
    return [*severed, *wrong, *away, *differ, *new, *left, *answered, *consistency.tracebacks(stage)]


def _lies_alone(stage: Stage, say: _Log) -> list[str]:
    """Check that the hostile node severs nothing that is homed elsewhere while every other part works: first with
    whatever is homed there, then with every tunnel of its region."""
    if wrong := _settle(stage, lambda: consistency.not_served(stage), say):
        return wrong
    wrong = _lie(stage, say)
    others = [node for node in NODES if REGIONS[node] == RAW_REGION and node != HOSTILE]
    drains = [Fault(say.seconds(), say.seconds(), Kind.DRAIN, node) for node in others]
    for drain in drains:
        stage.begin(drain)
    away = _settle(stage, lambda: consistency.not_at_hostile(stage), say)
    for drain in drains:
        stage.end(drain)
    say(f"every tunnel of {RAW_REGION} is at {HOSTILE}: {'no' if away else 'yes'}")
    return [*wrong, *away, *_lie(stage, say)]


def _lie(stage: Stage, say: _Log) -> list[str]:
    """Let the hostile node lie for a while. Returns the visits of tunnels homed elsewhere that were not served."""
    lies = Fault(say.seconds(), say.seconds() + _LIES_ALONE, Kind.LIE, HOSTILE)
    visits, severed = 0, []
    stage.begin(lies)
    try:
        if not stage.hostile.wait_for(True, _TURNS_WITHIN, stage.supervise):
            return [f"{HOSTILE} did not begin to lie"]
        until = say.seconds() + _LIES_ALONE
        while True:
            stage.supervise()
            made, wrong = consistency.severed(stage)
            visits += made
            severed += wrong
            if say.seconds() >= until:
                break
    finally:
        stage.end(lies)
    if not stage.hostile.wait_for(False, _TURNS_WITHIN, stage.supervise):
        severed.append(f"{HOSTILE} did not stop lying")
    served = f"{visits - len(severed)} of {visits} visits of tunnels homed elsewhere were served"
    say(f"while only {HOSTILE} lied, for {say.seconds() - lies.at:.0f} s, {served}")
    return severed


def _newcomer(stage: Stage, say: _Log) -> list[str]:
    """Check a guest that comes after the faults.

    It is started again while nodes that have just started let all their raw ports rest.
    """
    place = GUESTS[0]
    name = stage.guests.come(place)

    def wrong() -> list[str]:
        nonlocal name
        if not stage.guests.is_present(place):
            name = stage.guests.come(place)
        return consistency.not_served(stage) if stage.guests.has_tunnels(name) else [f"{name} has no tunnel"]

    found = _settle(stage, wrong, say)
    stage.guests.leave(place, killed=False)
    return found


def _listed(found: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {count}" for what, count in found.items())


def _settle(stage: Stage, question: Callable[[], list[str]], say: _Log) -> list[str]:
    began = time.monotonic()
    last: list[str] = []

    def supervised() -> list[str]:
        nonlocal last
        stage.supervise()
        wrong = question()
        last = wrong or last
        return wrong

    wrong = consistency.settle(supervised)
    if not wrong and last and time.monotonic() - began > _QUICK:
        say(f"resolved after {time.monotonic() - began:.0f} s: {'; '.join(last)[:_SHOWN]}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
